//! Real mail servers with files of their own: a script covers the machine's folders in a mount namespace
//! (`covered.sh`), runs them, says `started` and stops when its standard input is closed.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Runs a script of `tests/suite` under `unshare`, which `outer` can put a command before. What it
/// complains about is in `script.log` in `folder`. Returns it with its first line, which is `started`
/// unless it failed.
pub(crate) fn run(
    outer: &[&str],
    script: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    folder: &Path,
) -> (Child, String) {
    let words: Vec<&str> = outer.iter().copied().chain(["unshare", "-m", "bash"]).collect();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.join("script.log")).unwrap())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    (child, said.trim_end().to_owned())
}
