//! `scripts/check` says what it has not checked. The tools are played; the script is real.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that is the whole PATH: what the script needs from the system, and tools that find nothing wrong.
fn tools(test: &str, played: &[&str]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("gates-{test}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for name in ["bash", "dirname", "grep"] {
        let program = std::env::split_paths(&path).map(|place| place.join(name)).find(|program| program.is_file());
        symlink(program.unwrap_or_else(|| panic!("this test needs {name}")), folder.join(name)).unwrap();
    }
    // What is found under that name may be a script that needs the rest of the PATH.
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().expect("this test needs python3");
    symlink(String::from_utf8(python.stdout).unwrap().trim(), folder.join("python3")).unwrap();
    for name in played {
        let program = folder.join(name);
        std::fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// The last line of a run that succeeds.
fn last_line(test: &str, played: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check");
    let output = Command::new(script).env("PATH", tools(test, played)).output().expect("scripts/check");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().last().unwrap_or_default().to_owned()
}

/// It said that every gate holds while two of them had not been looked at.
#[test]
fn a_gate_that_was_not_run_is_not_said_to_hold() {
    let bare = last_line("bare", &["cargo"]);
    assert!(!bare.contains("every gate holds"), "{bare}");
    assert!(bare.contains("NOT checked: shell scripts; licences, sources and advisories"), "{bare}");
    let without_deny = last_line("without-deny", &["cargo", "shellcheck"]);
    assert!(without_deny.ends_with("NOT checked: licences, sources and advisories"), "{without_deny}");
    assert_eq!(last_line("all", &["cargo", "shellcheck", "cargo-deny"]), "scripts/check: every gate holds");
}
