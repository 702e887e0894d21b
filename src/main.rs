//! The `postrider` program: hands its command line to the library.

use std::process::ExitCode;

/// A copy costs some eighty allocations, which with glibc's allocator took an eighth of the time of
/// a send. SQLite keeps glibc's: to take that over too breaks under libraries that are preloaded.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postrider::cli::main()
}
