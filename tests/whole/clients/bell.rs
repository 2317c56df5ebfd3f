//! The bell (`clients/bell`): the page at `/demo` in a real Chromium, and whether the bundle that the program holds is made of the sources as
//! they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest::{Context, SHA256};

use super::must_succeed;
use crate::support::languages::javascript_packages;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// As `clients/bell/build.mjs` reckons it: over the names and contents of all that the page is made of.
fn hash_of_sources() -> String {
    let mut files = vec![PathBuf::from("clients/bell/build.mjs"), PathBuf::from("clients/bell/package.json")];
    let mut folders = ["clients/bell/page", "clients/bell/src", "clients/js/src"].map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().map(Result::unwrap) {
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let mut names: Vec<&str> = files.iter().map(|file| file.to_str().expect("a name in UTF-8")).collect();
    names.sort_unstable();
    let mut hash = Context::new(&SHA256);
    for name in names {
        hash.update(format!("{name}\n").as_bytes());
        hash.update(&fs::read(root().join(name)).unwrap());
        hash.update(b"\n");
    }
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_page_is_made_of_the_sources_as_they_are() {
    let page = fs::read_to_string(root().join("src/control/demo/page.html")).unwrap();
    let (_, rest) = page.split_once("SHA-256 ").expect("the page says of what it is made");
    let made = rest.split(|letter: char| !letter.is_ascii_hexdigit()).next().unwrap();
    assert!(
        made == hash_of_sources(),
        "src/control/demo/page.html is older than its sources: run `npm install && npm run build` in clients/bell and commit it"
    );
}

#[test]
fn it_rings_in_chromium() {
    let mut command = Command::new("node");
    command.arg(root().join("clients/bell/test/run.mjs"));
    // Beside a client under test it needs no packages of its own.
    command.env("CAMPANILE_NODE_MODULES", javascript_packages());
    must_succeed(command);
}
