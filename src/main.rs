//! The `postrider` program: hands its command line to the library.

use std::process::ExitCode;

/// Rows are made on the database's threads and freed on others, which the system's allocator answers
/// with an arena a thread that never shrinks: a send to a million readers held four times the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postrider::cli::main()
}
