//! The `faregate` program: see the library crate of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    faregate::cli::main()
}
