//! `faregate demo`: a whole gate at work, for whoever wants to see it.

use clap::Args;

use super::exit::Failure;

// Without the feature the options are understood, shown in the help, and refused.
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "sandbox"), allow(dead_code))]
pub(super) struct Arguments {
    /// End after so many passengers, whatever they do: most make one journey that is charged, some leave a hole in it, and others with
    /// bad codes come on top. Without it, Ctrl-C ends the demo.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    trips: Option<u64>,
    /// How long the network goes away; 0 for never.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    outage: u64,
    /// The same seed brings the same passengers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[cfg(not(feature = "sandbox"))]
pub(super) fn run(_: &Arguments) -> Result<(), Failure> {
    Err(super::without_sandbox("demo"))
}

#[cfg(feature = "sandbox")]
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    use super::exit::Code;
    use crate::sandbox::demo;

    let plan =
        demo::Plan { trips: arguments.trips, outage: std::time::Duration::from_secs(arguments.outage), seed: arguments.seed };
    let books = demo::run(&plan)?;
    if books.differences.is_empty() {
        return Ok(());
    }
    let messages = books.differences.iter().map(|difference| format!("the books do not balance: {difference}")).collect();
    Err(Failure { code: Code::Found, messages })
}

#[cfg(feature = "sandbox")]
impl From<crate::sandbox::demo::DemoError> for Failure {
    fn from(error: crate::sandbox::demo::DemoError) -> Self {
        use crate::sandbox::demo::DemoError;
        match error {
            DemoError::Output(error) => error.into(),
            DemoError::Daemon(error) => error.into(),
            other => Self::new(super::exit::Code::Internal, other.to_string()),
        }
    }
}
