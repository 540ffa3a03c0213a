//! A program that was built for gates, without the cargo feature `sandbox`.

use std::process::Command;

#[test]
fn a_build_for_gates_names_demo_and_sandbox_and_refuses_them_with_a_sentence() {
    for args in [&["demo", "--trips", "1"][..], &["sandbox", "--listen", "127.0.0.1:0"]] {
        let said = Command::new(env!("CARGO_BIN_EXE_faregate")).args(args).output().unwrap();
        let errors = String::from_utf8(said.stderr).unwrap();
        assert_eq!(said.status.code(), Some(64), "{args:?}: {errors}");
        assert!(errors.contains(&format!("{} is not part of this build", args[0])), "{errors}");
    }
}
