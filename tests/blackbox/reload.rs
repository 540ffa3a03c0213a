//! SIGHUP: the settings are read again, and nobody has to guess what became of them.

use super::support::{Gate, WeChat, code};

fn reload(gate: &Gate) {
    let answers = || gate.log().matches("SIGHUP: a static access token").count();
    let before = answers();
    gate.hang_up();
    gate.wait("SIGHUP is answered", || answers() > before);
}

#[test]
fn a_changed_setting_that_needs_a_restart_is_named_at_each_reload_until_it_is_changed_back() {
    let wechat = WeChat::start();
    let gate = Gate::beside(&wechat).start();
    let (before, told) = (gate.settings(), "SIGHUP: lane[in].turnstile.pulse has changed, which holds only after");
    gate.write_settings(&before.replace("pulse = \"60ms\"", "pulse = \"70ms\""));
    for times in 1..=2 {
        reload(&gate);
        assert_eq!(gate.log().matches(told).count(), times, "{}", gate.log_tail());
    }
    gate.write_settings(&before);
    reload(&gate);
    assert_eq!(gate.log().matches(" has changed").count(), 2, "{}", gate.log_tail());
}

#[test]
fn a_changed_fare_and_a_changed_limit_hold_from_the_reload_on() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    gate.scan("in", &code("FARE", 0));
    gate.wait_opens(1);
    gate.write_settings(
        &gate.settings().replace("flat_fen = 200", "flat_fen = 300").replace("[gate]", "[gate]\nduplicate_window = \"6m\""),
    );
    reload(&gate);
    for key in ["fare.flat_fen", "gate.duplicate_window"] {
        assert!(gate.log().contains(&format!("SIGHUP: {key} has changed, and holds from now on")), "{}", gate.log_tail());
    }
    gate.scan("in", &code("FARE", 1));
    gate.wait_opens(2);
    let fen: Vec<_> = gate.queue().iter().map(|row| row["total_fen"].as_i64().unwrap()).collect();
    assert_eq!(fen, [200, 300]);
    reload(&gate);
    assert_eq!(gate.log().matches(" has changed").count(), 2, "{}", gate.log_tail());
}

#[test]
fn settings_with_errors_change_nothing_and_each_error_is_in_the_log_with_its_line() {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    let good = gate.settings();
    gate.write_settings(&good.replace("pulse = \"60ms\"", "pulse = \"soon\"").replace("flat_fen = 200", "flat_fen = -1"));
    let line = |key: &str| gate.settings().lines().position(|line| line.starts_with(key)).unwrap() + 1;
    reload(&gate);
    for key in ["pulse =", "flat_fen ="] {
        assert!(gate.log().contains(&format!("faregate.toml:{}: error: ", line(key))), "{key}\n{}", gate.log_tail());
    }
    assert!(gate.log().contains("the settings, the fares and the roots stay as they were"), "{}", gate.log_tail());
    std::fs::remove_file(gate.settings_file()).unwrap();
    reload(&gate);
    assert_eq!(gate.log().matches("the settings, the fares and the roots stay as they were").count(), 2, "{}", gate.log_tail());
    gate.write_settings(&good);
    gate.scan("in", &code("RELOAD", 0));
    gate.wait_opens(1);
    gate.wait("it is charged as before", || wechat.charged().len() == 1);
}
