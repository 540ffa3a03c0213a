//! A gate as an operator sees it: settings, readers, a daemon, its trace, its commands.
//!
//! Everything lies in a folder of its own, which goes with the value; so does the daemon.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    DEADLINE, holds_within, http,
    ports::free_port,
    pty::Reader,
    wechat::{APPID, SECRET, WeChat},
};

/// How long a clean stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How much of the log a failure shows.
const LOG_TAIL_BYTES: usize = 3000;

/// The settings of a gate that does not run yet. Defaults: lane `in`, single, lines of raw bytes, opaque codes, short pulses, quick
/// retries.
pub(crate) struct Builder {
    lanes: Vec<String>,
    /// Of one lane alone: its name, the section, the key, the value.
    of_lane: Vec<(String, &'static str, String, Value)>,
    /// Beside the settings, readable by their owner only.
    files: Vec<(&'static str, Vec<u8>)>,
    sections: BTreeMap<&'static str, BTreeMap<String, Value>>,
}

impl Builder {
    fn new(wechat_url: &str) -> Self {
        let sections = json!({
            "gate": {"id": "T1", "station": "S1"},
            "lane": {"mode": "single"},
            "scanner": {"baud": 115_200, "framing": "line", "encoding": "raw"},
            "turnstile": {"driver": "simulated", "trace": "trace.jsonl", "pulse": "60ms", "pulse_gap": "20ms"},
            "ride_code": {"format": "opaque"},
            "fare": {"scene": "METRO", "body": "地铁代扣", "line_name": "2号线", "flat_fen": 200},
            "ledger": {"path": "ledger.db"},
            "wechat": {
                "base_url": wechat_url, "deduct_path": "/deduct", "auth": "stable-token", "appid": APPID,
                "mch_id": "1900000001", "secret_file": "secret", "timeout": "5s",
            },
            "upload": {"retry_initial": "50ms", "retry_max": "300ms"},
            "monitor": {"listen": format!("127.0.0.1:{}", free_port())},
        });
        let mut builder = Self { lanes: Vec::new(), of_lane: Vec::new(), files: Vec::new(), sections: BTreeMap::new() };
        for name in SECTIONS.into_iter().chain(LANE_SECTIONS) {
            let keys = sections[name].as_object().unwrap().clone();
            builder.sections.insert(name, keys.into_iter().collect());
        }
        builder
    }

    /// Lanes of these names in place of the one `in`.
    pub(crate) fn lanes(mut self, names: &[&str]) -> Self {
        self.lanes = names.iter().map(ToString::to_string).collect();
        self
    }

    /// A setting; those of `lane`, `scanner` and `turnstile` hold for every lane.
    pub(crate) fn set(mut self, section: &'static str, key: &str, value: impl Into<Value>) -> Self {
        assert!(self.sections.contains_key(section) || OPTIONAL_SECTIONS.contains(&section), "{section} is no known section");
        self.sections.entry(section).or_default().insert(key.to_owned(), value.into());
        self
    }

    /// A setting of one lane, in its section `lane`, `scanner` or `turnstile`.
    pub(crate) fn of_lane(mut self, lane: &str, section: &'static str, key: &str, value: impl Into<Value>) -> Self {
        self.of_lane.push((lane.to_owned(), section, key.to_owned(), value.into()));
        self
    }

    /// A file beside the settings, such as a key.
    pub(crate) fn file(mut self, name: &'static str, content: &[u8]) -> Self {
        self.files.push((name, content.to_vec()));
        self
    }

    /// The folder, the files and the readers, but no daemon.
    pub(crate) fn prepare(mut self) -> Gate {
        if self.lanes.is_empty() {
            self.lanes.push("in".to_owned());
        }
        let folder = tempfile::Builder::new().prefix("faregate-test-").tempdir().unwrap();
        let listen = self.sections["monitor"]["listen"].as_str().unwrap();
        let monitor_port = listen.rsplit(':').next().unwrap().parse().unwrap();
        let readers = self.lanes.iter().map(|lane| (lane.clone(), Reader::new(folder.path().join(format!("scanner-{lane}")))));
        let gate = Gate { monitor_port, readers: readers.collect(), daemon: None, environment: Vec::new(), folder };
        let mut secret = OpenOptions::new().write(true).create_new(true).mode(0o600).open(gate.path("secret")).unwrap();
        writeln!(secret, "{SECRET}").unwrap();
        for (name, content) in &self.files {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(gate.path(name));
            file.unwrap().write_all(content).unwrap();
        }
        gate.write_settings(&self.toml(&gate));
        gate
    }

    /// Prepared, started, and able to open.
    pub(crate) fn start(self) -> Gate {
        let mut gate = self.prepare();
        gate.start();
        gate
    }

    fn toml(&self, gate: &Gate) -> String {
        let mut text = String::new();
        for lane in &self.lanes {
            let device = gate.readers[lane].link().to_str().unwrap();
            writeln!(text, "[[lane]]\nname = \"{lane}\"").unwrap();
            self.write_lane_keys(&mut text, lane, "lane");
            writeln!(text, "[lane.scanner]\ndevice = \"{device}\"").unwrap();
            self.write_lane_keys(&mut text, lane, "scanner");
            writeln!(text, "[lane.turnstile]").unwrap();
            self.write_lane_keys(&mut text, lane, "turnstile");
        }
        for name in SECTIONS.into_iter().chain(OPTIONAL_SECTIONS).filter(|name| self.sections.contains_key(name)) {
            writeln!(text, "[{name}]").unwrap();
            self.write_keys(&mut text, name);
        }
        text
    }

    fn write_lane_keys(&self, text: &mut String, lane: &str, section: &str) {
        let mut keys = self.sections[section].clone();
        let own = self.of_lane.iter().filter(|(name, of, ..)| name == lane && *of == section);
        keys.extend(own.map(|(.., key, value)| (key.clone(), value.clone())));
        for (key, value) in &keys {
            writeln!(text, "{key} = {}", as_toml(value)).unwrap();
        }
    }

    fn write_keys(&self, text: &mut String, section: &str) {
        for (key, value) in &self.sections[section] {
            writeln!(text, "{key} = {}", as_toml(value)).unwrap();
        }
    }
}

const SECTIONS: [&str; 7] = ["gate", "ride_code", "fare", "ledger", "wechat", "upload", "monitor"];
/// Off when absent.
const OPTIONAL_SECTIONS: [&str; 3] = ["callback", "exposure", "deny"];
const LANE_SECTIONS: [&str; 3] = ["lane", "scanner", "turnstile"];

/// JSON's strings, numbers and booleans are TOML as they are; objects become inline tables.
fn as_toml(value: &Value) -> String {
    let Some(table) = value.as_object() else { return value.to_string() };
    let pairs: Vec<_> = table.iter().map(|(key, value)| format!("{key} = {}", as_toml(value))).collect();
    format!("{{ {} }}", pairs.join(", "))
}

/// One change of a line in the trace.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) at: Timestamp,
    pub(crate) lane: String,
    pub(crate) line: String,
    pub(crate) level: u64,
    pub(crate) reason: Option<String>,
}

impl Edge {
    fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("the trace holds {line:?}: {error}"));
        let text = |key: &str| value[key].as_str().map(ToOwned::to_owned);
        Self {
            at: text("at").and_then(|at| at.parse().ok()).unwrap_or_else(|| panic!("no time in {line}")),
            lane: text("lane").unwrap_or_else(|| panic!("no lane in {line}")),
            line: text("line").unwrap_or_else(|| panic!("no line in {line}")),
            level: value["level"].as_u64().unwrap_or_else(|| panic!("no level in {line}")),
            reason: text("reason"),
        }
    }

    fn is(&self, line: &str, level: u64) -> bool {
        self.line == line && self.level == level
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Cli {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Cli {
    /// The one JSON document on stdout of a command that succeeded.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not one JSON document ({error}): {self:?}"))
    }
}

/// A gate and, while it runs, its daemon.
pub(crate) struct Gate {
    monitor_port: u16,
    readers: BTreeMap<String, Reader>,
    daemon: Option<Child>,
    /// What the daemon finds in its environment beside the usual.
    environment: Vec<(&'static str, OsString)>,
    folder: TempDir,
}

impl Gate {
    /// Settings for a gate that sends its deductions to this WeChat.
    pub(crate) fn beside(wechat: &WeChat) -> Builder {
        Self::sending_to(&wechat.base_url())
    }

    /// Settings for a gate that takes what listens there for WeChat.
    pub(crate) fn sending_to(wechat_url: &str) -> Builder {
        Builder::new(wechat_url)
    }

    /// A file in the gate's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `faregate.toml`.
    pub(crate) fn settings_file(&self) -> PathBuf {
        self.path("faregate.toml")
    }

    /// The text of the settings, as they are now.
    pub(crate) fn settings(&self) -> String {
        fs::read_to_string(self.settings_file()).unwrap()
    }

    /// Replaces the settings; a daemon sees them at its next start.
    pub(crate) fn write_settings(&self, text: &str) {
        fs::write(self.settings_file(), text).unwrap();
    }

    /// A variable of the environment, for the daemon's next start.
    pub(crate) fn set_env(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.environment.push((name, value.into()));
    }

    /// Starts the daemon, or starts it again, and waits until every lane can open.
    pub(crate) fn start(&mut self) {
        self.spawn();
        self.wait_healthy();
    }

    /// Starts the daemon and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.readers.values().for_each(Reader::closed_by_its_program);
        let log = OpenOptions::new().create(true).append(true).open(self.path("log.txt")).unwrap();
        // Started by a shell that ignores the signal: a write beyond the file size limit is then an error like that of a failing disk.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(program());
        let command = &mut self.dressed(command, &["run"]);
        command.envs(self.environment.iter().cloned());
        self.daemon = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Until `/health` says that every lane can open for a code.
    pub(crate) fn wait_healthy(&mut self) {
        self.wait_running("/health says 200", |gate| gate.health() == Some(200));
    }

    /// Until the daemon answers at all, ready or not.
    pub(crate) fn wait_answering(&mut self) {
        self.wait_running("/health answers", |gate| gate.health().is_some());
    }

    fn wait_running(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut ended = None;
        let holds = holds_within(DEADLINE, || {
            ended = self.daemon.as_mut().expect("the daemon was started").try_wait().unwrap();
            ended.is_some() || condition(self)
        });
        assert!(ended.is_none(), "the daemon ended with {ended:?}\n{}", self.log_tail());
        assert!(holds, "not within {DEADLINE:?}: {what}; it says {:?}\n{}", self.get("/health"), self.log_tail());
    }

    /// From now on every write of the daemon beyond so many bytes of a file fails; `None`: none does.
    pub(crate) fn fail_writes_beyond(&self, bytes: Option<u64>) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    }

    /// Until the daemon ends by itself; its exit code.
    pub(crate) fn wait_ended(&mut self) -> Option<i32> {
        let daemon = self.daemon.take().expect("the daemon was started");
        wait_exit(daemon, DEADLINE).unwrap_or_else(|| panic!("it still runs after {DEADLINE:?}\n{}", self.log_tail())).code()
    }

    /// Waits for a condition; a failure shows the end of the daemon's log.
    pub(crate) fn wait(&self, what: &str, condition: impl FnMut() -> bool) {
        assert!(holds_within(DEADLINE, condition), "not within {DEADLINE:?}: {what}\n{}", self.log_tail());
    }

    /// Sends a code as a line.
    pub(crate) fn scan(&mut self, lane: &str, code: &[u8]) {
        self.send(lane, &[code, b"\r"].concat());
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, lane: &str, bytes: &[u8]) {
        self.readers.get_mut(lane).expect("a known lane").send(bytes);
    }

    /// Pulls a lane's reader out: the device and its name are gone.
    pub(crate) fn unplug(&mut self, lane: &str) {
        self.readers.get_mut(lane).expect("a known lane").unplug();
    }

    /// Puts it back: a new device under the old name.
    pub(crate) fn plug(&mut self, lane: &str) {
        self.readers.get_mut(lane).expect("a known lane").plug();
    }

    /// Every change of a line so far, of all lanes.
    pub(crate) fn trace(&self) -> Vec<Edge> {
        let text = fs::read_to_string(self.path("trace.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(Edge::parse).collect()
    }

    /// Every opening so far, of all lanes.
    pub(crate) fn opens(&self) -> Vec<Edge> {
        self.trace().into_iter().filter(|edge| edge.is("open", 1)).collect()
    }

    /// Number of openings so far of one lane.
    pub(crate) fn opens_of(&self, lane: &str) -> usize {
        self.opens().iter().filter(|edge| edge.lane == lane).count()
    }

    /// The reason of every refusal so far, of all lanes.
    pub(crate) fn denials(&self) -> Vec<String> {
        let denials = self.trace().into_iter().filter(|edge| edge.is("light_deny", 1));
        denials.map(|edge| edge.reason.unwrap_or_else(|| "no reason given".to_owned())).collect()
    }

    /// Until there were so many openings, and not one more.
    pub(crate) fn wait_opens(&self, count: usize) {
        self.wait(&format!("{count} openings"), || self.opens().len() >= count);
        assert_eq!(self.opens().len(), count, "openings\n{}", self.log_tail());
    }

    /// Until there were so many refusals.
    pub(crate) fn wait_denials(&self, count: usize) {
        self.wait(&format!("{count} refusals"), || self.denials().len() >= count);
    }

    /// Until the open line of every lane is inactive.
    pub(crate) fn wait_closed(&self) {
        self.wait("every pulse has ended", || self.readers.keys().all(|lane| !self.is_open(lane)));
    }

    /// Whether the open line of a lane is active.
    pub(crate) fn is_open(&self, lane: &str) -> bool {
        self.trace().iter().rev().find(|edge| edge.lane == lane && edge.line == "open").is_some_and(|edge| edge.level == 1)
    }

    /// Runs a command with this gate's settings; it must end.
    pub(crate) fn cli(&self, args: &[&str]) -> Cli {
        self.cli_reading(b"", args)
    }

    /// As [`Self::cli`], with this on standard input.
    pub(crate) fn cli_reading(&self, input: &[u8], args: &[&str]) -> Cli {
        let (mut stdin, mut stdout, mut stderr) =
            (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        stdin.write_all(input).unwrap();
        stdin.rewind().unwrap();
        let mut command = self.command(args);
        command.stdin(stdin);
        let child = command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap()).spawn().unwrap();
        let status = wait_exit(child, DEADLINE);
        let cli = Cli { code: status.and_then(|status| status.code()), stdout: all_of(&mut stdout), stderr: all_of(&mut stderr) };
        assert!(status.is_some(), "`faregate {}` did not end within {DEADLINE:?}: {cli:?}", args.join(" "));
        cli
    }

    /// What a command says with `--json`.
    pub(crate) fn ask(&self, args: &[&str]) -> Value {
        self.cli(&[args, &["--json"]].concat()).json()
    }

    /// Every row of the queue, oldest first.
    pub(crate) fn queue(&self) -> Vec<Value> {
        self.ask(&["queue", "list", "--limit", "0"]).as_array().expect("an array of rows").clone()
    }

    /// The rows of the queue in this state.
    pub(crate) fn rows_in(&self, state: &str) -> Vec<Value> {
        self.queue().into_iter().filter(|row| row["state"] == state).collect()
    }

    /// What `status --json` says of the running daemon.
    pub(crate) fn status(&self) -> Value {
        self.ask(&["status"])
    }

    /// Until nothing waits to be sent.
    pub(crate) fn wait_drained(&self) {
        self.wait("everything is accepted, parked or void", || {
            let queue = &self.status()["queue"];
            queue["pending"] == 0 && queue["held"] == 0
        });
    }

    /// The status code of `/health`; `None` when nobody answers.
    pub(crate) fn health(&self) -> Option<u16> {
        self.get("/health").map(|(status, _)| status)
    }

    /// A page of the monitor.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        http::get(self.monitor_port, path)
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").id()
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// SIGHUP: what can change is read again.
    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_child(self.daemon.as_ref().expect("the daemon runs")), Signal::HUP).unwrap();
    }

    /// SIGTERM; the exit code, `None` when it does not end in time or a signal ends it.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let daemon = self.daemon.take().expect("the daemon runs");
        kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
        wait_exit(daemon, STOP_WITHIN).and_then(|status| status.code())
    }

    /// SIGTERM, and it ended as it should.
    pub(crate) fn stop_cleanly(&mut self) {
        let code = self.stop();
        assert_eq!(code, Some(0), "exit code of a clean stop\n{}", self.log_tail());
    }

    /// Everything that the daemon wrote to its log.
    pub(crate) fn log(&self) -> String {
        fs::read(self.path("log.txt")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of the log, for the message of a failure.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let from = (log.len().saturating_sub(LOG_TAIL_BYTES)..=log.len()).find(|&at| log.is_char_boundary(at)).unwrap();
        format!("--- log of the daemon ---\n{}", &log[from..])
    }

    /// The program with this gate's settings, in a time zone that is neither UTC nor Beijing, without a proxy before 127.0.0.1, and
    /// not in the folder of the settings.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.dressed(Command::new(program()), args)
    }

    fn dressed(&self, mut command: Command, args: &[&str]) -> Command {
        for (name, _) in env::vars_os().filter(|(name, _)| is_unwanted(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.env("RUNTIME_DIRECTORY", self.folder.path()).env("TZ", "America/New_York");
        command.args(args).arg("--config").arg(self.settings_file());
        command.current_dir(Path::new("/")).stdin(Stdio::null());
        command
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// The program under test: the one built with these tests, unless `FAREGATE_PROGRAM` names another (an installed package's).
fn program() -> OsString {
    env::var_os("FAREGATE_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_faregate").into())
}

/// Whether a variable would make the program behave as under a service manager or behind a proxy.
fn is_unwanted(name: &str) -> bool {
    let of_the_service_manager = ["CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "JOURNAL_STREAM", "WATCHDOG_USEC", "WATCHDOG_PID"];
    name.to_ascii_lowercase().ends_with("_proxy") || of_the_service_manager.contains(&name)
}

/// Waits for a process to end; kills it when it does not, and returns `None`.
fn wait_exit(mut child: Child, deadline: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= end {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn all_of(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
