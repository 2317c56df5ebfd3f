//! What can be asked is asked as the page says, and what cannot be is told.

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_is_on_the_page() {
    let page = include_str!("../../../../docs/loadgen.md");
    let command = Cli::command();
    let scenarios: Vec<&clap::Command> = command.get_subcommands().filter(|scenario| !scenario.is_hide_set()).collect();
    for scenario in scenarios {
        assert!(page.contains(&format!("### {}\n", scenario.get_name())), "{}", scenario.get_name());
        for option in scenario.get_opts().filter_map(clap::Arg::get_long).chain(["quiet", "spin", "floor"]) {
            // Named as it is typed, not as the begin of a longer one.
            let typed = format!("--{option}");
            let found = page
                .split(&typed)
                .skip(1)
                .filter(|rest| !rest.starts_with(|next: char| next == '-' || next.is_ascii_alphanumeric()))
                .count();
            assert!(found > 0, "--{option} of {} is not on the page", scenario.get_name());
        }
    }
}
