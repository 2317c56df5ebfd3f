//! Python and Node with the libraries that `tests/clients/` and the clients in `clients/` ask for, installed under `target/` once.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A virtual environment with the pinned libraries.
pub fn python() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        installed("python", &others("python"), &["requirements.txt"], |home, sources| {
            must(Command::new("python3").args(["-m", "venv", "--clear"]).arg(home), "python3 with venv (package `python3-venv`)");
            let requirements = sources.join("requirements.txt");
            // Kept as they came: what is built here is installed from them, without asking anybody.
            must(pip(home, "download").arg("--dest").arg(home.join(WHEELS)).arg("--requirement").arg(&requirements), PIP);
            must(pip(home, "install").args(offline(home)).arg("--requirement").arg(&requirements), PIP);
        })
    })
}

/// A virtual environment with nothing but `clients/python` as it stands and what that asks for, installed from its built wheel.
pub fn python_client() -> PathBuf {
    let others = python();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client-python");
    let _ = fs::remove_dir_all(&home);
    must(Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&home), "python3 with venv (package `python3-venv`)");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python");
    let built = home.join(WHEELS);
    let build = ["--no-deps", "--no-build-isolation", "--wheel-dir"];
    must(pip(others, "wheel").args(offline(others)).args(build).arg(&built).arg(sources), "hatchling, which builds the wheel");
    let wheel = fs::read_dir(&built).unwrap().next().expect("a wheel was built").unwrap().path();
    let mut install = Command::new(others.join("bin/python"));
    install.args(["-m", "pip", "--python"]).arg(home.join("bin/python")).args(["install", "--quiet", "--disable-pip-version-check"]);
    must(install.args(offline(others)).arg(wheel), "the wheels that pip has downloaded");
    home
}

const WHEELS: &str = "wheels";
const PIP: &str = "pip and the libraries of requirements.txt";

fn pip(home: &Path, command: &str) -> Command {
    let mut pip = Command::new(home.join("bin/python"));
    pip.args(["-m", "pip", command, "--quiet", "--disable-pip-version-check"]);
    pip
}

/// From what was downloaded, and from nowhere else.
fn offline(home: &Path) -> [OsString; 3] {
    ["--no-index".into(), "--find-links".into(), home.join(WHEELS).into()]
}

/// A directory with the scripts and `node_modules`.
pub fn node() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let files = ["package.json", "package-lock.json", "scenarios.js", "feed.js"];
        installed("node", &others("node"), &files, |home, sources| npm_ci(home, sources, &files))
    })
}

/// A copy of `clients/js` as it stands, beside the packages that it and its tests ask for. Only one test may use it.
pub fn javascript() -> PathBuf {
    let home = javascript_packages();
    copy(&javascript_sources(), &home);
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(licence), home.join(licence)).unwrap();
    }
    home
}

/// The folder above their `node_modules`, with esbuild and playwright-core among them.
pub fn javascript_packages() -> PathBuf {
    let files = ["package.json", "package-lock.json"];
    installed("js", &javascript_sources(), &files, |home, sources| npm_ci(home, sources, &files))
}

fn javascript_sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/js")
}

/// Where clients stand that others have written.
fn others(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(language)
}

fn npm_ci(home: &Path, sources: &Path, files: &[&str]) {
    fs::create_dir_all(home).unwrap();
    for name in files {
        fs::copy(sources.join(name), home.join(name)).unwrap();
    }
    let npm = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
    must(Command::new("npm").args(npm).current_dir(home), "npm (package `npm`) and the libraries of package-lock.json");
}

/// Files and folders, but for what is made of them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_name().to_str() {
            Some("node_modules" | "dist" | "build") => {}
            _ if source.is_dir() => {
                // What is there no more must not be tested.
                let _ = fs::remove_dir_all(&target);
                copy(&source, &target);
            }
            _ => drop(fs::copy(source, target).unwrap()),
        }
    }
}

/// The directory where `install` has put what these files ask for; done again only when one of them has changed.
fn installed(language: &str, sources: &Path, files: &[&str], install: impl FnOnce(&Path, &Path)) -> PathBuf {
    let asked: String = files.iter().map(|name| fs::read_to_string(sources.join(name)).unwrap()).collect();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{language}"));
    // Another test process may be doing the same.
    let lock = File::create(home.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let done = home.join("installed");
    if !fs::read_to_string(&done).is_ok_and(|text| text == asked) {
        let _ = fs::remove_dir_all(&home);
        install(&home, sources);
        fs::write(done, asked).unwrap();
    }
    home
}

/// Not installed is a failure that says what is missing, not a test that was skipped.
fn must(command: &mut Command, needed: &str) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {needed}: {command:?}: {error}; scripts/test installs it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "this test needs {needed}: {command:?} failed; without a package registry, set up a mirror for pip and npm\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}
