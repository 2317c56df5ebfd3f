//! The `campanile` program: arguments in, exit code out. 0: done. 1: it could not be done. 2: the command line or the settings
//! are wrong.

use std::process::ExitCode;

fn main() -> ExitCode {
    campanile::cli::run(std::env::args_os())
}
