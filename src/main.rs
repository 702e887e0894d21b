//! The `postrider` program: hands its command line to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    postrider::cli::main()
}
