//! The live picture: a [`View`] as lines of styled text, for whoever passes by. Pure; a terminal or a file is somebody else's affair.

use std::collections::VecDeque;

use super::{
    books::yuan,
    view::{LaneView, Network, Verdict, View},
};
use crate::{journal::printable, monitor::UploadState};

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Dim,
    Bold,
    Good,
    Bad,
    Warn,
}

/// A piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span(pub(super) Style, pub(super) String);

/// One line of the picture.
pub(super) type Line = Vec<Span>;

/// Columns of a text beside its label, as on a terminal of 80.
const TEXT_COLUMNS: usize = 68;
/// What stands before the lines of an alarm: there are at most so many.
const ALARM_LABELS: [&str; 3] = ["ALARM", "", ""];
/// Columns of the queue's curve.
const CURVE_COLUMNS: usize = 48;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws everything in so many rows, the story in those that are left.
pub(super) fn draw(view: &View, rows: usize) -> Vec<Line> {
    let mut lines = vec![heading(view), Line::new()];
    lines.extend(view.lanes.iter().map(lane));
    lines.push(Line::new());
    lines.extend([network(view), queue(view), upload(view), Line::new()]);
    lines.push(scans(view));
    lines.extend(refusals(view));
    lines.extend([passed(view), charged(view), sent(view), speed(view)]);
    lines.extend(alarms(view));
    lines.push(Line::new());
    let room = rows.saturating_sub(lines.len());
    let story = view.story.iter().skip(view.story.len().saturating_sub(room));
    lines.extend(story.map(|line| vec![Span(Style::Dim, printable_text(line))]));
    lines
}

fn heading(view: &View) -> Line {
    let seconds = view.elapsed.as_secs();
    let hint = if view.is_closing { "closing the books" } else { "Ctrl-C ends it and closes the books" };
    let time = format!("   {:02}:{:02}   seed {}   ", seconds / 60, seconds % 60, view.seed);
    vec![span(Style::Bold, " FAREGATE DEMO"), span(Style::Plain, time), span(Style::Dim, hint)]
}

/// As somebody sees it who stands before it.
fn lane(lane: &LaneView) -> Line {
    let (style, gate) =
        if lane.is_open { (Style::Good, "▐▌   OPEN   ▐▌") } else { (Style::Plain, "▐▌══ shut ══▐▌") };
    let who = |text: &str| format!("  {}{text}", lane.who);
    let verdict = match &lane.verdict {
        Verdict::Waiting => span(Style::Dim, who("")),
        Verdict::Welcome => span(Style::Good, who(": welcome")),
        Verdict::Passed => span(Style::Good, who(": through")),
        Verdict::NotPassed => span(Style::Warn, who(": walked away")),
        Verdict::Refused(reason) => span(Style::Bad, who(&format!(": refused, {reason}"))),
    };
    vec![span(Style::Bold, format!(" {:<9}", lane.name)), span(style, gate), verdict]
}

fn network(view: &View) -> Line {
    let (style, text) = match view.network {
        Network::Up => (Style::Good, "up".to_owned()),
        Network::Down(left) => {
            (Style::Bad, format!("DOWN for {:.1} s more: the gate opens all the same, and remembers", left.as_secs_f64()))
        }
    };
    vec![label("network"), Span(style, text)]
}

fn queue(view: &View) -> Line {
    let pending = view.pending();
    let style = if pending == 0 { Style::Good } else { Style::Warn };
    vec![label("waiting"), Span(style, format!("{pending:>4} ")), span(Style::Warn, curve(&view.history))]
}

/// The latest depths as bars, the highest of them as high as a bar can be.
fn curve(history: &VecDeque<u64>) -> String {
    let shown = history.iter().skip(history.len().saturating_sub(CURVE_COLUMNS));
    let highest = shown.clone().copied().max().unwrap_or(0).max(BARS.len() as u64 - 1);
    let bar = |depth: &u64| {
        let height = depth * (BARS.len() as u64 - 1) / highest;
        usize::try_from(height).ok().and_then(|height| BARS.get(height)).copied().unwrap_or(' ')
    };
    shown.map(bar).collect()
}

fn upload(view: &View) -> Line {
    let Some(status) = &view.status else { return vec![label("upload")] };
    let (style, word) = match status.upload.state {
        UploadState::Idle => (Style::Good, "all is sent"),
        UploadState::Sending => (Style::Good, "sending"),
        UploadState::Waiting => (Style::Warn, "waiting to try again"),
        UploadState::Paused => (Style::Warn, "paused, trying one now and then"),
    };
    vec![label("upload"), span(style, word)]
}

fn scans(view: &View) -> Line {
    let refused: u64 = view.refused.values().sum();
    vec![
        label("shown"),
        Span(Style::Plain, format!("{:>4} codes: ", view.scans)),
        Span(Style::Good, format!("{} opened", view.opened)),
        Span(Style::Plain, ", ".to_owned()),
        Span(Style::Bad, format!("{refused} refused")),
    ]
}

/// By reason, none of them broken.
fn refusals(view: &View) -> impl Iterator<Item = Line> {
    let last = view.refused.len().saturating_sub(1);
    let end = |at| if at == last { "" } else { "," };
    let reasons = view.refused.iter().enumerate().map(|(at, (reason, count))| format!("{reason} {count}{}", end(at)));
    wrapped(reasons).into_iter().map(|text| vec![label(""), Span(Style::Dim, text)])
}

fn passed(view: &View) -> Line {
    let (came_in, went_out) = view.passed;
    let detail = format!("; {} walked away, {} uninvited", view.unpassed, view.uninvited);
    vec![label("passed"), Span(Style::Good, format!("{came_in:>4} came in, {went_out} went out")), Span(Style::Dim, detail)]
}

fn charged(view: &View) -> Line {
    let charged = view.charged;
    vec![label("charged"), Span(Style::Good, format!("{:>4} rides, {}, {} paid", charged.count, yuan(charged.fen), charged.paid))]
}

fn sent(view: &View) -> Line {
    let charged = view.charged;
    let text = format!("{:>4} requests: {} got lost, {} were known already", charged.requests, charged.lost, charged.repeated);
    vec![label("sent"), Span(Style::Dim, text)]
}

fn speed(view: &View) -> Line {
    let times = view.status.as_ref().map(|status| status.scan_to_open_ms);
    let text = match times.and_then(|times| Some((times.p50?, times.p99?))) {
        Some((p50, p99)) => format!("{p50:.1} ms from the code to the open gate (median), {p99:.1} ms (p99)"),
        None => "nobody has passed yet".to_owned(),
    };
    vec![label("speed"), Span(Style::Plain, text)]
}

fn alarms(view: &View) -> Vec<Line> {
    let alarms = view.status.iter().flat_map(|status| &status.alarms);
    let words = |alarm: &String| printable_text(alarm).split(' ').map(str::to_owned).collect::<Vec<_>>();
    let alarms = alarms.flat_map(|alarm| wrapped(words(alarm)).into_iter().zip(ALARM_LABELS));
    let lines: Vec<Line> = alarms.map(|(text, name)| vec![label(name), Span(Style::Bad, text)]).collect();
    if lines.is_empty() { vec![vec![label("alarms"), span(Style::Good, "none")]] } else { lines }
}

fn label(text: &str) -> Span {
    Span(Style::Dim, format!(" {text:<9}"))
}

fn span(style: Style, text: impl Into<String>) -> Span {
    Span(style, text.into())
}

/// Lines of these pieces with a space between them, none longer than [`TEXT_COLUMNS`] unless a piece is.
fn wrapped(pieces: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + piece.chars().count() <= TEXT_COLUMNS => {
                line.push(' ');
                line.push_str(&piece);
            }
            _ => lines.push(piece),
        }
    }
    lines
}

/// Alarms can hold what a peer has sent.
fn printable_text(text: &str) -> String {
    text.chars().map(printable).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::{fmt::Write as _, time::Duration};

    use super::*;
    use crate::sandbox::demo::{stations::LANES, view::Charged};

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| line.iter().map(|Span(_, text)| text.as_str()).collect::<String>() + "\n").collect()
    }

    fn view() -> View {
        View::new(7, &LANES)
    }

    #[test]
    fn a_passer_by_sees_which_gate_is_open_for_whom_and_who_was_refused_why() {
        let mut view = view();
        assert_eq!(text(&draw(&view, 30)).matches("shut").count(), 5);
        view.lanes[0].who = "passenger ..0042".to_owned();
        let edge = |line| -> super::super::Edge { serde_json::from_str(line).unwrap() };
        view.see(&edge(r#"{"lane":"Port-in","line":"open","level":1}"#));
        view.see(&edge(r#"{"lane":"Zoo-out","line":"light_deny","level":1,"reason":"duplicate"}"#));
        let shown = text(&draw(&view, 30));
        for part in ["OPEN", "shut", "passenger ..0042: welcome", "refused, duplicate", "1 opened", "1 refused\n", "duplicate 1\n"]
        {
            assert!(shown.contains(part), "no {part:?} in\n{shown}");
        }
    }

    #[test]
    fn the_curve_shows_the_latest_depths_to_scale() {
        assert_eq!(curve(&VecDeque::from([0, 7, 14])), "▁▄█");
        assert_eq!(curve(&VecDeque::from([0, 1])), "▁▂");
        assert_eq!(curve(&(0..200).collect()).chars().count(), CURVE_COLUMNS);
    }

    #[test]
    fn a_long_alarm_stays_readable() {
        let alarm = "no usable answer ".repeat(10);
        let lines = wrapped(alarm.trim_end().split(' ').map(str::to_owned));
        assert!(lines.len() == 3 && lines.iter().all(|line| line.chars().count() <= TEXT_COLUMNS), "{lines:?}");
        assert_eq!(lines.join(" "), alarm.trim_end());
    }

    #[test]
    fn every_reason_of_refusal_is_whole_on_a_terminal_of_80_columns() {
        let mut view = view();
        view.refused = crate::ride_code::Refusal::ALL.iter().map(|refusal| (refusal.as_str().to_owned(), 1000)).collect();
        let verdict = Verdict::Refused("certificate-signature".to_owned());
        for lane in &mut view.lanes {
            (lane.who, lane.verdict) = ("passenger ..0042".to_owned(), verdict.clone());
        }
        view.charged = Charged { count: 9999, fen: 99_999_999, requests: 9999, lost: 999, repeated: 999, paid: 9999 };
        let shown = text(&draw(&view, 30));
        assert!(shown.lines().all(|line| line.chars().count() < 80), "{shown}");
        assert_eq!(shown.matches("passenger ..0042: refused, certificate-signature\n").count(), 5, "{shown}");
        for reason in view.refused.keys() {
            assert!(shown.contains(&format!("{reason} 1000")), "no {reason} in\n{shown}");
        }
    }

    #[test]
    fn an_outage_is_told_and_the_story_fills_only_the_rows_that_are_left() {
        let mut view = view();
        view.network = Network::Down(Duration::from_millis(2300));
        (0..40).for_each(|number| view.tell(format!("line {number}")));
        let lines = draw(&view, 20);
        assert_eq!(lines.len(), 20);
        let shown = text(&lines);
        assert!(shown.contains("DOWN for 2.3 s more") && shown.contains("line 39") && !shown.contains("line 1\n"), "{shown}");
        assert!(draw(&view, 3).len() < 20);
    }

    /// A picture as a small SVG: a monospaced line of text per line.
    pub(crate) fn svg(lines: &[Line]) -> String {
        const ROW: usize = 18;
        const COLUMNS: usize = 92;
        let colour = |style| match style {
            Style::Plain => "#d8dee9",
            Style::Dim => "#8a93a5",
            Style::Bold => "#ffffff",
            Style::Good => "#8fd18a",
            Style::Bad => "#f08a8a",
            Style::Warn => "#f0c674",
        };
        let height = lines.len() * ROW + 24;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 {height}\" font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"14\">\n\
             <title>faregate demo on a terminal, during an outage</title>\n<rect width=\"800\" height=\"{height}\" rx=\"8\" fill=\"#1f2430\"/>\n"
        );
        for (at, line) in lines.iter().enumerate() {
            let y = (at + 1) * ROW + 8;
            write!(svg, "<text x=\"12\" y=\"{y}\" xml:space=\"preserve\">").unwrap();
            let mut left = COLUMNS;
            for Span(style, text) in line {
                // As a terminal of that width cuts it.
                let text: String = text.chars().take(left).collect();
                left -= text.chars().count();
                let text = text.replace('&', "&amp;").replace('<', "&lt;");
                write!(svg, "<tspan fill=\"{}\">{text}</tspan>", colour(*style)).unwrap();
            }
            svg.push_str("</text>\n");
        }
        svg + "</svg>\n"
    }
}
