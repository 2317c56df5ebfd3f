//! What holds the house together: no module imports from above, and `scripts/check` says what it has not checked (its tools are played; the
//! script is real).

use std::collections::{BTreeMap, BTreeSet};
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

/// The floor of each module, as `docs/architecture.md` draws it.
fn floors() -> BTreeMap<String, u32> {
    let page = include_str!("../docs/architecture.md");
    let picture = page.split("### The house").nth(1).and_then(|rest| rest.split("```").nth(1)).expect("a picture of the house");
    let mut floors = BTreeMap::new();
    for line in picture.lines() {
        let mut columns = line.split('│').map(str::trim);
        let Some(floor) = columns.next().and_then(|text| text.parse::<u32>().ok()) else { continue };
        for module in columns.next().expect("modules").split_whitespace() {
            assert!(floors.insert(module.to_owned(), floor).is_none(), "{module} stands twice");
        }
    }
    floors
}

/// The source files below a folder, without tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().unwrap().to_str().unwrap() {
            "tests" | "bin" => {}
            _ if path.is_dir() => found.extend(sources(&path)),
            name if name.ends_with("tests.rs") => {}
            name if name.ends_with(".rs") => found.push(path),
            _ => {}
        }
    }
    found
}

/// What is compiled of a file, without its comments and its own tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The modules that a file names by their way from the root of the crate.
fn imports(code: &str) -> BTreeSet<String> {
    let word =
        |text: &str| text.trim().split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default().to_owned();
    let named = code.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or_default().split(',').map(word).collect(),
        None => vec![word(rest)],
    });
    named.filter(|name| !name.is_empty()).collect()
}

#[test]
fn no_module_imports_from_its_own_floor_or_from_above() {
    assert_eq!(imports("use crate::{a::B, c};\n pub(crate) x: crate::d::E"), ["a", "c", "d"].map(str::to_owned).into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors = floors();
    let lib = code(&source.join("lib.rs"));
    let declared: BTreeSet<String> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).map(str::to_owned).collect();
    assert_eq!(declared, floors.keys().cloned().collect(), "the picture has the modules of src/lib.rs");
    let mut held = 0;
    for path in sources(&source) {
        let place = path.strip_prefix(&source).unwrap();
        let module = place.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let Some(floor) = floors.get(module) else { continue };
        for name in imports(&code(&path)).iter().filter(|name| *name != module) {
            let Some(other) = floors.get(name) else { panic!("{} names crate::{name}, which is no module", place.display()) };
            assert!(other < floor, "{} imports crate::{name}, which is on floor {other}; {module} is on floor {floor}", place.display());
            held += 1;
        }
    }
    assert!(held > 100, "only {held} imports found: the test reads the sources wrongly");
}

#[test]
fn wire_fanout_auth_and_tls_know_no_socket_no_thread_and_no_clock() {
    for folder in ["wire", "fanout", "auth", "tls"] {
        for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)) {
            let code = code(&path);
            for name in ["std::net", "std::thread", "std::os", "Instant", "SystemTime", "mio::", "socket2", "tokio", "crate::sys"] {
                assert!(!code.contains(name), "{} names {name}", path.display());
            }
        }
    }
}
