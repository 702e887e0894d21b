//! The `postrider` program: hands its command line to the library.

use std::process::ExitCode;

/// A copy costs dozens of allocations, which with glibc's allocator took an eighth of the time of a
/// send. Its second generation, without huge pages, halves the memory of a send to a million. SQLite
/// keeps glibc's: to take that over too breaks under libraries that are preloaded.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postrider::cli::main()
}
