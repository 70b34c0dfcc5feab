//! Round trip time of a message: alone, among idle connections, and while the plugin is replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plugsocket_bench::{
    BARE, BATCHED, Effort, HOST, HOST_DIALOG, NODE, RAW, Sample, Server, Setup, Subject, Table,
    Talk, bench_folder, build_folder,
};

use super::{entries, possible};

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    let alone = [RAW, BATCHED, BARE, NODE, HOST, HOST_DIALOG];
    among(effort, &alone, 0).await?;
    among(effort, &[BATCHED, BARE, HOST, HOST_DIALOG], possible(effort, 5000)).await?;
    reloads(effort).await
}

fn table(title: &str, base: &str) -> Table {
    Table::new(format!("latency: one connection, 1 in flight, 64 bytes, {title}"))
        .time("p50", |s| s.p50)
        .time("p99", |s| s.p99)
        .busy()
        .ratio(&format!("p50 to {base}"), base, |s| s.p50, 1.0)
        .ratio(&format!("p99 to {base}"), base, |s| s.p99, 1.0)
}

async fn among(effort: &Effort, subjects: &[Subject], idle: usize) -> io::Result<()> {
    let measure = async |subject: &Subject| {
        let server = Server::start(subject, &Setup::default()).await?;
        let crowd = server.crowd(subject, 0..idle).await?;
        let sample = Talk::new(1, 1).measure_on(effort, &server, subject).await;
        drop(crowd);
        sample
    };
    let rows = effort.rounds(&entries(subjects), measure).await?;
    let title = format!("among {idle} idle connections");
    println!("{}", table(&title, BATCHED.name).render(&rows));
    Ok(())
}

/// Interval between two replacements.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

async fn reloads(effort: &Effort) -> io::Result<()> {
    // A window must contain several reloads.
    let effort = Effort { window: effort.window.max(Duration::from_secs(4)), ..*effort };
    let effort = Effort { rounds: effort.rounds.min(5), ..effort };
    let settings = [("no reload", false), ("one reload per second", true)];
    let entries = settings.map(|(name, reloads)| (name.to_owned(), reloads));
    let rows = effort.rounds(&entries, async |reloads| measure(&effort, *reloads).await).await?;
    let table = table("while its plugin is replaced, on the same core", "no reload")
        .number("reloads", |s| s.other);
    println!("{}", table.render(&rows));
    Ok(())
}

async fn measure(effort: &Effort, reloads: bool) -> io::Result<Sample> {
    let folder = Libraries::make(if reloads { 2 * effort.window.as_secs() } else { 0 })?;
    let plugin_dir = Some(folder.0.join("plugins"));
    let server = Server::start(&HOST, &Setup { plugin_dir, ..Setup::default() }).await?;
    let talk = Talk::new(1, 1);
    let mut sample = tokio::select! {
        sample = talk.measure_on(effort, &server, &HOST) => sample?,
        ended = folder.replace() => return Err(io::Error::other(format!("replacing ended: {ended:?}"))),
    };
    sample.other = generation(server.folder())? - 1.0;
    Ok(sample)
}

/// A folder with the plugins and with successors of `echo`: copies with a few bytes appended.
/// Removed when dropped.
struct Libraries(PathBuf);

impl Libraries {
    fn make(successors: u64) -> io::Result<Self> {
        let folder = Self(bench_folder()?.join(format!("libraries-{}", std::process::id())));
        fs::create_dir_all(folder.0.join("plugins"))?;
        for name in ["libecho.so", "libfeedback.so"] {
            fs::copy(build_folder()?.join(name), folder.0.join("plugins").join(name))?;
        }
        let bytes = fs::read(build_folder()?.join("libecho.so"))?;
        for number in 0..successors {
            let mark = number.to_le_bytes();
            fs::write(folder.0.join(number.to_string()), [bytes.as_slice(), &mark].concat())?;
        }
        Ok(folder)
    }

    /// Moves the successors into place one by one, then waits forever.
    async fn replace(&self) -> io::Result<()> {
        for number in 0_u64.. {
            tokio::time::sleep(RELOAD_EVERY).await;
            let next = self.0.join(number.to_string());
            if next.is_file() {
                fs::rename(next, self.0.join("plugins/libecho.so"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Libraries {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Returns the active generation of `echo`.
fn generation(folder: &Path) -> io::Result<f64> {
    let mut status = std::process::Command::new(build_folder()?.join("plugsocket"));
    status.args(["status", "--json", "--config"]).arg(folder.join("plugins.toml"));
    let output = String::from_utf8_lossy(&status.output()?.stdout).into_owned();
    // Keys are sorted: `generation` precedes `path`.
    let before = output.split(r#""path":"/echo""#).next().unwrap_or_default();
    let digits = before.rsplit(r#""generation":"#).next().unwrap_or_default();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().map_err(|_| io::Error::other(format!("no generation in {output}")))
}
