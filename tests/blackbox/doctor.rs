//! `faregate doctor` and `faregate bench` on the machine that the tests run on: what they say depends on it, but not whether they say it.

use super::support::{Gate, WeChat};

/// The line about this, without its word.
fn line<'a>(said: &'a str, about: &str) -> &'a str {
    said.lines().find(|line| line.contains(about)).unwrap_or_else(|| panic!("nothing about {about}:\n{said}"))
}

#[test]
fn doctor_opens_the_reader_of_a_gate_that_does_not_run_and_asks_the_daemon_of_one_that_does() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).prepare();
    let said = gate.cli(&["doctor"]);
    assert!(line(&said.stdout, "lane in, scanner").starts_with("ok "), "{said:?}");
    assert!(line(&said.stdout, "lane in, scanner").ends_with("opens at 115200 baud"), "{said:?}");
    assert!(line(&said.stdout, "network: ").contains("127.0.0.1 answers at"), "{said:?}");
    for about in ["clock: ", "rtc: ", "disk: ", "secret secret_file: ", "file: "] {
        line(&said.stdout, about);
    }
    gate.start();
    let said = gate.cli(&["doctor"]);
    assert!(line(&said.stdout, "lane in, scanner").ends_with("the daemon reads it"), "{said:?}");
    assert!(line(&said.stdout, "lane in, turnstile").ends_with("its lines obey the daemon"), "{said:?}");
    gate.unplug("in");
    gate.wait("the daemon misses its reader", || gate.status()["lanes"][0]["scanner"] == "absent");
    let said = gate.cli(&["doctor"]);
    assert!(line(&said.stdout, "lane in, scanner").contains("is not there; plug the reader in"), "{said:?}");
    assert_eq!(said.code, Some(1), "{said:?}");
}

#[test]
fn doctor_names_each_thing_that_is_missing_with_what_to_do_and_ends_with_1() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).prepare();
    let chip = "driver = \"gpio\"\nchip = \"/dev/no-gpiochip\"\nopen = 17";
    let nobody = "base_url = \"http://127.0.0.1:1\"";
    let settings = gate.settings().replace("driver = \"simulated\"", chip).replace("trace = \"trace.jsonl\"\n", "");
    let lines: Vec<_> = settings.lines().map(|line| if line.starts_with("base_url") { nobody } else { line }).collect();
    gate.write_settings(&lines.join("\n"));
    std::fs::remove_file(gate.path("secret")).unwrap();
    std::fs::remove_file(gate.path("scanner-in")).unwrap();
    let said = gate.cli(&["doctor"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(line(&said.stdout, "lane in, scanner").starts_with("ERROR "), "{said:?}");
    assert!(line(&said.stdout, "lane in, turnstile").contains("there is no GPIO chip /dev/no-gpiochip"), "{said:?}");
    assert!(line(&said.stdout, "secret secret_file").starts_with("ERROR "), "{said:?}");
    assert!(line(&said.stdout, "network: ").starts_with("WARNING "), "{said:?}");
    for error in said.stdout.lines().filter(|line| !line.starts_with("ok")) {
        assert!(error.contains("; "), "no mend: {error}");
    }
    assert!(said.stderr.contains("looks found an error"), "{said:?}");
}

#[test]
fn bench_says_what_to_expect_beside_a_running_gate_and_leaves_nothing() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    let said = gate.cli(&["bench"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for about in
        ["disk: ", "ledger: ", "ride code: ", "serial: a code at 115200 baud", "to expect: last byte of a scan to open turnstile"]
    {
        line(&said.stdout, about);
    }
    assert!(line(&said.stdout, "at 115200 baud").ends_with("29.774   lane in"), "{said:?}");
    let left = std::fs::read_dir(gate.path(""))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("bench"));
    assert_eq!(left.count(), 0);
    assert!(gate.queue().is_empty());
    gate.stop_cleanly();
}
