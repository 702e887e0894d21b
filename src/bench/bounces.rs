//! How fast returned mail is read, against flufl.bounce and Sisimai: the same mails, from memory, on
//! one thread each, measured by the CPU time that each takes. Ours reads and classifies.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;
use serde::Serialize;

use super::median;
use crate::{
    bounce::{explain::explain, report},
    provider::Providers,
};

/// Prints the mails a second that flufl.bounce reads.
const FLUFL: &str = "\
import email, os, sys, time
from flufl.bounce import all_failures
folder = sys.argv[1]
mails = [open(os.path.join(folder, name), 'rb').read() for name in sorted(os.listdir(folder))]
start = time.process_time()
for mail in mails:
    try:
        all_failures(email.message_from_bytes(mail))
    except Exception:
        pass
print(len(mails) / (time.process_time() - start))
";

/// Prints the mails a second that Sisimai reads. It takes them from files, which are cached.
const SISIMAI: &str = "\
use Sisimai; use Time::HiRes qw(clock);
my $folder = shift; opendir my $open, $folder or die; my @names = sort grep { -f \"$folder/$_\" } readdir $open;
my $make = Sisimai->can('rise') ? 'rise' : 'make';
eval { Sisimai->$make(\"$folder/$names[0]\") };
my $start = clock();
eval { Sisimai->$make(\"$folder/$_\", 'delivered' => 1) } for @names;
print scalar(@names) / (clock() - $start);
";

/// Mails a second of CPU time.
#[derive(Debug, Clone, Serialize)]
pub struct Reading {
    /// Whom ours was compared with.
    pub against: &'static str,
    /// Ours, each run.
    pub ours_per_second: Vec<f64>,
    /// The other's, each run; none when it is not installed.
    pub theirs_per_second: Vec<f64>,
    /// Median of ours over median of theirs.
    pub ratio: f64,
    /// What the ratio is meant to be at least.
    pub goal: f64,
}

impl Reading {
    pub(super) fn describe(&self) -> String {
        let ours = median(&self.ours_per_second);
        if self.theirs_per_second.is_empty() {
            return format!("returned mail: {ours:.0}/s; {} is not installed", self.against);
        }
        format!(
            "returned mail, against {}: {ours:.0}/s against {:.0}/s: {:.1} × (goal {} ×)",
            self.against,
            median(&self.theirs_per_second),
            self.ratio,
            self.goal,
        )
    }
}

/// Compares readers over the mails in `folder`, a file each.
pub(super) fn compare(folder: &Path, runs: usize) -> anyhow::Result<Vec<Reading>> {
    let mails = load(folder)?;
    // Tables are built at the first mail.
    ours(&mails, 1)?;
    let peers = [("flufl.bounce", 20.0, "python3", FLUFL), ("Sisimai", 10.0, "perl", SISIMAI)];
    let mut readings = Vec::new();
    for (against, goal, interpreter, script) in peers {
        let (mut ours_per_second, mut theirs_per_second) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            ours_per_second.push(ours(&mails, 10)?);
            theirs_per_second.extend(theirs(interpreter, script, folder));
        }
        let ratio = median(&ours_per_second) / median(&theirs_per_second);
        readings.push(Reading { against, ours_per_second, theirs_per_second, ratio, goal });
    }
    Ok(readings)
}

fn load(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_file() {
            names.push(path);
        }
    }
    anyhow::ensure!(!names.is_empty(), "there are no mails in {}", folder.display());
    names.sort();
    Ok(names.into_iter().map(fs::read).collect::<Result<_, _>>()?)
}

fn ours(mails: &[Vec<u8>], rounds: u32) -> anyhow::Result<f64> {
    let start = cpu_seconds()?;
    for _ in 0..rounds {
        for mail in mails {
            if let Ok(report) = report::read(mail, None) {
                std::hint::black_box(explain(&report, Providers::embedded()));
            }
        }
    }
    Ok(mails.len() as f64 * f64::from(rounds) / (cpu_seconds()? - start))
}

/// The CPU time of this thread: the first number of its `schedstat`, in nanoseconds.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split(' ').next().unwrap_or_default().parse::<f64>();
    Ok(nanoseconds.context("schedstat has another form")? / 1e9)
}

fn theirs(interpreter: &str, script: &str, folder: &Path) -> Option<f64> {
    let flag = if interpreter == "perl" { "-e" } else { "-c" };
    let output = Command::new(interpreter).args([flag, script]).arg(folder).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
