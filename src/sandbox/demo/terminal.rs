//! Where the demo is shown: a terminal gets a picture that is drawn again and again, everything else plain lines.
//!
//! Plain lines hold no control sequence. They are what pipes, files, `TERM=dumb` and `NO_COLOR` get. The terminal is given back as it
//! was on every way out but `kill -9`: at the end, on a signal (which the demo waits for), and on a panic.

use std::{
    env,
    fmt::Write as _,
    io::{self, IsTerminal, Stdout, Write, stdout},
    panic,
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::{
    picture::{self, Line, Span, Style},
    view::View,
};

/// The other screen, without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR: &str = "\x1b[2J";
const TO_LINE_END: &str = "\x1b[0m\x1b[K";
const TO_SCREEN_END: &str = "\x1b[J";
/// What a terminal that does not tell its size is taken to have.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// Where the demo is shown.
pub(super) enum Screen {
    /// Lines, one after the other.
    Plain(Stdout),
    /// A picture.
    Live(Terminal),
    /// Nothing.
    #[cfg(test)]
    Dark,
}

impl Screen {
    /// What standard output can show.
    pub(super) fn of_stdout() -> io::Result<Self> {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if stdout().is_terminal() && !is_dumb && !is_set("NO_COLOR") {
            Ok(Self::Live(Terminal::enter()?))
        } else {
            Ok(Self::Plain(stdout()))
        }
    }

    /// Something has happened.
    pub(super) fn tell(&mut self, line: &str) -> io::Result<()> {
        match self {
            Self::Plain(out) => writeln!(out, "{}", line.trim_end()).and_then(|()| out.flush()),
            Self::Live(_) => Ok(()),
            #[cfg(test)]
            Self::Dark => Ok(()),
        }
    }

    /// This is how it looks.
    pub(super) fn draw(&mut self, view: &View) -> io::Result<()> {
        match self {
            Self::Live(terminal) => terminal.draw(view),
            Self::Plain(_) => Ok(()),
            #[cfg(test)]
            Self::Dark => Ok(()),
        }
    }

    /// Gives the terminal back.
    pub(super) fn leave(self) -> io::Result<()> {
        match self {
            Self::Live(mut terminal) => terminal.leave(),
            Self::Plain(_) => Ok(()),
            #[cfg(test)]
            Self::Dark => Ok(()),
        }
    }
}

/// The terminal of standard output, while it is the demo's.
pub(super) struct Terminal {
    /// `None` when it has been given back.
    before: Option<Termios>,
    size: (usize, usize),
}

impl Terminal {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdout())?;
        let mut settings = before.clone();
        // What is typed must not show, and Ctrl-Z must not leave a shell on the demo's screen. Ctrl-C stays what it is.
        settings.local_modes.remove(LocalModes::ECHO);
        settings.special_codes[SpecialCodeIndex::VSUSP] = 0;
        tcsetattr(stdout(), OptionalActions::Now, &settings)?;
        give_back_on_panic(before.clone());
        let mut terminal = Self { before: Some(before), size: SIZE_DEFAULT };
        terminal.write(ENTER)?;
        Ok(terminal)
    }

    fn draw(&mut self, view: &View) -> io::Result<()> {
        let size = size();
        let mut frame = if size == self.size { String::new() } else { CLEAR.to_owned() };
        self.size = size;
        let (columns, rows) = size;
        frame.push_str(HOME);
        for (at, line) in picture::draw(view, rows).iter().take(rows).enumerate() {
            frame.push_str(if at == 0 { "" } else { "\r\n" });
            push_line(&mut frame, line, columns);
        }
        frame.push_str(TO_SCREEN_END);
        self.write(&frame)
    }

    fn leave(&mut self) -> io::Result<()> {
        let Some(before) = self.before.take() else { return Ok(()) };
        tcsetattr(stdout(), OptionalActions::Now, &before)?;
        self.write(LEAVE)
    }

    #[allow(clippy::unused_self)] // Only who holds the terminal may write to it.
    fn write(&mut self, text: &str) -> io::Result<()> {
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.leave();
    }
}

/// Before the panic's own words, so that they can be read.
fn give_back_on_panic(before: Termios) {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let _ = tcsetattr(stdout(), OptionalActions::Now, &before);
        let mut out = stdout();
        let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
        report(info);
    }));
}

/// Columns and rows.
fn size() -> (usize, usize) {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        _ => SIZE_DEFAULT,
    }
}

/// No wider than the terminal, whose last column stays free: writing there wraps on some.
fn push_line(frame: &mut String, line: &Line, columns: usize) {
    let mut left = columns.saturating_sub(1);
    for Span(style, text) in line {
        let shown: String = text.chars().take(left).collect();
        left -= shown.chars().count();
        // Writing into a String cannot fail.
        let _ = write!(frame, "\x1b[{}m{shown}", code(*style));
    }
    frame.push_str(TO_LINE_END);
}

/// Of the sequence that sets it: <https://www.ecma-international.org/publications-and-standards/standards/ecma-48/>.
fn code(style: Style) -> &'static str {
    match style {
        Style::Plain => "0",
        Style::Dim => "0;2",
        Style::Bold => "0;1",
        Style::Good => "0;32",
        Style::Bad => "0;31;1",
        Style::Warn => "0;33",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_never_wider_than_the_terminal() {
        let line = vec![Span(Style::Good, "═══".to_owned()), Span(Style::Bad, "abc".to_owned())];
        let shown = |columns| {
            let mut frame = String::new();
            push_line(&mut frame, &line, columns);
            frame
        };
        assert_eq!(shown(80), "\x1b[0;32m═══\x1b[0;31;1mabc\x1b[0m\x1b[K");
        assert_eq!(shown(5), "\x1b[0;32m═══\x1b[0;31;1ma\x1b[0m\x1b[K");
        assert_eq!(shown(0), "\x1b[0;32m\x1b[0;31;1m\x1b[0m\x1b[K");
    }
}
