//! Runs the shell blocks of a document against a host, in a folder that looks like the repository
//! after `cargo build --release`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::markdown::{Block, Document, root};
use crate::{Client, Request, plugin_path, unique_name, within};

/// A host that was started as the documents say, with a browser connected to `/web`.
pub struct Tutorial {
    folder: PathBuf,
    port: u16,
    _host: Child,
    /// Reads the log, so that the pipe does not fill up.
    _log_reader: JoinSet<()>,
    _browser: Client,
}

/// The resources of the shipped `plugins.toml`, which the user of a working copy may have edited.
const RESOURCES: &str = r#"
[resources."/"]
plugin = "feedback"

[resources."/web"]
plugin = "feedback"

[resources."/php"]
plugin = "feedback"

[resources."/echo"]
plugin = "echo"
dialog = false

[resources."/talk"]
plugin = "echo"

[resources."/chat"]
plugin = "chat"

[resources."/locks"]
plugin = "locks"

[resources."/jobs"]
plugin = "jobs"
snapshot_every = 60
"#;
/// The first line of what the shell prints between two blocks.
const END: &str = "--- end of block ---";
/// A block may build a library and its dependencies.
const DEADLINE: Duration = Duration::from_secs(600);

impl Tutorial {
    /// Copies what the documents use, and starts the host on a free port.
    pub async fn start(program: &str) -> Self {
        let folder = std::env::temp_dir().join(unique_name()).join("plugsocket");
        let release = folder.join("target/release");
        std::fs::create_dir_all(&release).unwrap();
        std::os::unix::fs::symlink(program, release.join("plugsocket")).unwrap();
        for plugin in ["chat", "echo", "feedback", "jobs", "locks"] {
            let library = format!("lib{plugin}.so");
            std::fs::copy(plugin_path(plugin), release.join(library)).unwrap();
        }
        std::os::unix::fs::symlink(root().join("clients"), folder.join("clients")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server =
            format!("[server]\nlisten = [\"127.0.0.1:{port}\"]\nplugin_dir = \"target/release\"\n");
        std::fs::write(folder.join("plugins.toml"), server + RESOURCES).unwrap();
        let (host, reader) = start_host(&folder).await;
        let address = crate::Address::Tcp(([127, 0, 0, 1], port).into());
        let browser = Client::open(&address, Request::to("/web")).await.ready().await;
        Self { folder, port, _host: host, _log_reader: reader, _browser: browser }
    }

    /// Runs the shell blocks in one shell, and compares what they print with the block that follows.
    /// Blocks for which `is_left_out` holds are not run.
    ///
    /// # Panics
    /// If a command fails or prints something else.
    pub async fn run(&self, document: &Document, is_left_out: impl Fn(&Block) -> bool) {
        let mut script = "set -eo pipefail\n".to_owned();
        let mut expected = Vec::new();
        for (index, block) in document.blocks.iter().enumerate() {
            if block.language == "sh" && !is_left_out(block) {
                script.push_str(&format!("{}\necho '{END}'\n", self.adapted(&block.text)));
                let output = document.blocks.get(index + 1);
                expected.push((block, output.filter(|next| is_output(next))));
            }
        }
        let shell = Command::new("bash")
            .args(["-c", &script])
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", self.target())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, shell).await.unwrap().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let path = document.path.display();
        assert!(output.status.success(), "{path}: {}\n{printed}\n{errors}", output.status);
        for ((block, expected), printed) in expected.iter().zip(printed.split(END)) {
            let expected = expected.map_or("", |block| block.text.trim());
            let is_right = printed.trim().ends_with(expected);
            assert!(is_right, "{path}:{}: {printed}\ninstead of\n{expected}\n{errors}", block.line);
        }
    }

    /// The same commands for this folder, port and build profile.
    fn adapted(&self, text: &str) -> String {
        let debug = format!("{}/debug/", self.target().display());
        let api = format!("--path {}/plugin-api", root().display());
        text.replace("127.0.0.1:8095", &format!("127.0.0.1:{}", self.port))
            .replace("127.0.0.1/8095", &format!("127.0.0.1/{}", self.port))
            .replace("--path plugin-api", &api)
            .replace("cargo build --release", "cargo build")
            .replace("../votes/target/release/", &debug)
    }

    /// Kept between two runs, so that dependencies are built once.
    fn target(&self) -> PathBuf {
        let program = std::env::current_exe().unwrap();
        let target = program.ancestors().find(|path| path.ends_with("target"));
        target.unwrap_or(&self.folder).join("tutorial")
    }
}

impl Drop for Tutorial {
    fn drop(&mut self) {
        // The host ends with its handle.
        drop(std::fs::remove_dir_all(self.folder.parent().unwrap()));
    }
}

/// Output that is the same at each run: without omissions and times.
fn is_output(block: &Block) -> bool {
    ["", "console"].contains(&&*block.language) && !block.text.contains(['…', '$'])
}

async fn start_host(folder: &Path) -> (Child, JoinSet<()>) {
    let mut host = Command::new("target/release/plugsocket")
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(host.stderr.take().unwrap()).lines();
    within("the host to be ready", async {
        while !log.next_line().await.unwrap().unwrap().ends_with(" ready") {}
    })
    .await;
    let mut reader = JoinSet::new();
    reader.spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    (host, reader)
}
