//! What packages and containers call, and the sample files in `deploy/`: they name settings, paths and files that there are.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use campanile::config::table;

use super::clients::{closed_port, http_server};
use super::{assert_contains, campanile, directory, run, write_file};

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn health_tells_by_its_exit_code_whether_a_server_lives() {
    let (address, server) = http_server(vec![answer("200 OK", "ok\n"), answer("503 Service Unavailable", "{\"ready\":false}\x1b[31m")]);
    let (code, stdout, stderr) = run(campanile("health").args(["health", "--control", &address]));
    assert_eq!((code, stdout, stderr.as_str()), (0, format!("{address}/healthz: ok\n"), ""));
    let (code, stdout, stderr) = run(campanile("health").args(["health", "--ready", "--control", &address]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(stderr, format!("error: {address}/readyz answers 503 Service Unavailable: {{\"ready\":false}}[31m\n"));
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with("GET /healthz HTTP/1.1\r\n") && requests[1].starts_with("GET /readyz HTTP/1.1\r\n"), "{requests:?}");

    let (address, server) = http_server(vec![answer("200 OK", "ok\n")]);
    assert_eq!(run(campanile("health").args(["health", "--public", &address])).0, 0);
    assert!(server.join().unwrap()[0].starts_with("GET /healthz "));

    let nowhere = format!("127.0.0.1:{}", closed_port());
    let (code, _, stderr) = run(campanile("health").args(["health", "--control", &nowhere]));
    assert_eq!(code, 1);
    assert_contains(&stderr, &[&nowhere, "refused", "is `campanile serve` running"]);
}

/// It accepts and says nothing, as a server whose threads are stuck does.
#[test]
fn health_does_not_wait_for_ever() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(campanile("health-stuck").args(["health", "--timeout", "100ms", "--control", &address]));
    assert_eq!(code, 1, "{stderr}");
    assert_contains(&stderr, &["timeout"]);
    let (code, _, stderr) = run(campanile("health-stuck").args(["health", "--timeout", "0", "--control", &address]));
    assert_eq!(code, 2, "{stderr}");
}

/// A container must not be killed for a mistake in a file that its server has refused to take in.
#[test]
fn health_asks_the_server_whatever_else_is_wrong_with_the_settings() {
    let (address, server) = http_server(vec![answer("200 OK", "ok"), answer("200 OK", "ok"), answer("200 OK", "ok")]);
    write_file("health-file", "campanile.toml", &format!("control = \"{address}\"\nheartbeat = 0\n"));
    let (code, stdout, stderr) = run(campanile("health-file").arg("health"));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    write_file("health-file", "campanile.toml", "not TOML at all");
    let (code, _, stderr) = run(campanile("health-file").arg("health"));
    assert_eq!(code, 1);
    assert_contains(&stderr, &["campanile.toml:1", "not TOML"]);
    for (variable, flags) in [(address.as_str(), &[][..]), ("", &["--control", &address])] {
        let mut command = campanile("health-file");
        let (code, _, stderr) = run(command.arg("health").args(flags).env("CAMPANILE_CONTROL", variable).env("CAMPANILE_SHARDS", "0"));
        assert_eq!(code, 0, "{stderr}");
    }
    assert_eq!(server.join().unwrap().len(), 3);
}

/// The shell's own judgement, where the shell is there; the names are there in any case.
#[test]
fn completions_are_scripts_that_know_every_command() {
    for (shell, syntax) in [("bash", true), ("zsh", false), ("fish", false), ("elvish", false), ("powershell", false)] {
        let (code, script, stderr) = run(campanile("completions").args(["completions", shell]));
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_contains(&script, &["serve", "publish", "health", "completions", "heartbeat"]);
        if syntax {
            let mut checked = Command::new(shell).arg("-n").stdin(Stdio::piped()).spawn().expect("bash");
            checked.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(checked.wait().unwrap().success(), "{shell} does not take it");
        }
    }
    let (code, _, stderr) = run(campanile("completions").args(["completions", "cmd"]));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["bash", "zsh", "fish"]);
    // Whoever reads may go: `campanile completions bash | head -1`.
    let mut command = Command::new("bash");
    let output =
        command.args(["-c", "set -o pipefail; \"$0\" completions bash | head -c 1", env!("CARGO_BIN_EXE_campanile")]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn each_command_has_a_manual_page() {
    let _ = std::fs::remove_dir_all(directory("man"));
    let mut command = campanile("man");
    std::fs::create_dir_all(directory("man").join("pages")).unwrap();
    let (code, _, stderr) = run(command.args(["man", "pages"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    let pages: BTreeSet<String> =
        std::fs::read_dir(directory("man").join("pages")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let listed = campanile::cli::command();
    for command in listed.get_subcommands().filter(|command| !command.is_hide_set()) {
        assert!(pages.contains(&format!("campanile-{}.1", command.get_name())), "{pages:?}");
    }
    assert!(
        pages.contains("campanile.1") && pages.contains("campanile-redis-install.1") && !pages.contains("campanile-man.1"),
        "{pages:?}"
    );
    let serve = std::fs::read_to_string(directory("man").join("pages/campanile-serve.1")).unwrap();
    assert_contains(&serve, &[".TH campanile-serve 1", "heartbeat"]);
    let (code, _, stderr) = run(campanile("man").args(["man", "no/such/folder"]));
    assert_eq!(code, 1);
    assert_contains(&stderr, &["no pages can be written into no/such/folder"]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Of the samples, the whole files of settings and the one that stands in the Kubernetes example.
#[test]
fn the_sample_settings_pass_the_check() {
    let kubernetes = read("deploy/kubernetes/campanile.yaml");
    let block = kubernetes.split("campanile.toml: |\n").nth(1).expect("the file in the ConfigMap").split("\n---").next().unwrap();
    let block: String = block.lines().map(|line| format!("{}\n", line.trim_start())).collect();
    let mut samples = vec![("kubernetes".to_owned(), block)];
    for path in files(&root().join("deploy")).iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        samples.push((path.display().to_string(), std::fs::read_to_string(path).unwrap()));
    }
    assert!(samples.len() >= 2, "the samples are read wrongly");
    for (name, text) in samples {
        // It stands in the Secret, as an environment variable, which a check of the file alone does not see.
        write_file("samples", "sample.toml", &text.replace("control = \"0.0.0.0:9090\"", "control = \"127.0.0.1:9090\""));
        let (code, stdout, stderr) = run(campanile("samples").args(["config", "--check", "sample.toml"]));
        assert_eq!((code, stderr.as_str()), (0, ""), "{name}: {stdout}");
    }
}

/// The words of a text that begin like this.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.split(|letter: char| !is_word(letter)).filter(|word| word.starts_with(prefix) && word.len() > prefix.len()).collect()
}

#[test]
fn the_samples_name_variables_and_files_that_there_are() {
    let mut variables = 0;
    for path in files(&root().join("deploy")) {
        let text = std::fs::read_to_string(&path).unwrap();
        for name in words(&text, "CAMPANILE_") {
            let key = name["CAMPANILE_".len()..].to_lowercase();
            assert!(key == "config" || table::find(&key).is_some(), "{}: {name} is no setting", path.display());
            variables += 1;
        }
        for folder in ["docs/", "scripts/", "tests/", "deploy/", "tuning/"] {
            for (at, _) in text.match_indices(folder).filter(|(at, _)| *at == 0 || text[..*at].ends_with([' ', '"', '`'])) {
                let name = text[at..].split(|letter: char| !(letter.is_ascii_alphanumeric() || "._-/".contains(letter))).next().unwrap();
                let name = name.trim_end_matches(['.', '/']);
                assert!(root().join(name).exists(), "{}: {name} is not there", path.display());
            }
        }
    }
    assert!(variables > 5, "the samples are read wrongly");
}

/// The unit of the package, the image and the pods call what the program has.
#[test]
fn the_package_is_made_of_what_there_is() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    let assets = package["assets"].as_array().unwrap();
    for asset in assets {
        let source = asset[0].as_str().unwrap();
        if !source.starts_with("target/") {
            let (folder, pattern) = source.rsplit_once('/').unwrap();
            let is_there = match pattern.strip_prefix('*') {
                Some(end) => files(&root().join(folder)).iter().any(|path| path.to_str().unwrap().ends_with(end)),
                None => root().join(source).exists(),
            };
            assert!(is_there, "{source} is not there");
        }
    }
    let version = manifest["package"]["version"].as_str().unwrap();
    assert!(read("deploy/debian/changelog").starts_with(&format!("campanile ({version}-1)")));
    assert!(read("CHANGELOG.md").contains(&format!("## {version}")));
    assert!(read("deploy/kubernetes/campanile.yaml").contains(&format!("image: campanile:{version}\n")));
    // What scripts/release changes in the unit stands there.
    let unit = read("tuning/systemd/campanile.service");
    assert_contains(&unit, &["# Why: a user that exists only", "\nDynamicUser=yes\n", "\nExecStart=/usr/local/bin/campanile serve"]);
}
