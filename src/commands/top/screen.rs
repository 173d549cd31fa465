//! The picture of a [`State`]: head, table and keys, or what lies over them. Fits what room there is: of a narrow
//! terminal columns are left out from the right, of a low one the line of rates.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Sparkline, Table, Wrap};
use tollgate_actors::forecast::shown as span;
use tollgate_actors::times::Waits;
use tollgate_actors::view::{AccountView, HoldView, Holder, LimitKind, Overview, Sort};

use super::state::{Hold, Mode, State};
use crate::commands::status::account::gauge;
use crate::commands::status::{done_in, left, printable};
use crate::ui::number;

/// From so many columns on calls in flight are shown.
const NARROW: u16 = 48;
/// From so many columns on why an account waits is shown, and since then until when.
const WIDE: u16 = 70;
const WIDER: u16 = 96;
/// From so many lines on the line of rates is.
const HIGH: u16 = 14;
/// Answers and next calls of an account that are shown.
const SHOWN: usize = 8;

const HELP: &str = "\
↑ ↓ k j        choose an account       Enter   open it
PgDn PgUp      the next page, back     /       find: a part of a name
s ← →          sort by the next column r       the other way round
w f u n        sort by waiting, in flight, until, name
o              only those that are held
p              hold the chosen account, or let it go on
d              dead letters
q              quit; of what is open: back

USED: # charged, + reserved by calls in flight. ~ is an estimate.
docs/status.md says what an ETA takes into account.";

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, now: Timestamp) {
    let area = frame.area();
    let line_of_rates = u16::from(area.height >= HIGH) * 2;
    let head = Constraint::Length(3);
    let parts =
        [head, Constraint::Length(line_of_rates), Constraint::Min(1), Constraint::Length(1)];
    let [top, rates, middle, bottom] = Layout::vertical(parts).areas(area);
    draw_head(frame, top, state, now);
    if line_of_rates > 0 {
        draw_rates(frame, rates, state);
    }
    match state.mode.clone() {
        Mode::Account(platform, account) => {
            draw_account(frame, middle, state, &format!("{platform}/{account}"), now);
        }
        Mode::Dead => draw_dead(frame, middle, state),
        Mode::Help => {
            draw_table(frame, middle, state, now);
            over(frame, middle, " keys ", HELP);
        }
        Mode::Confirm(Hold { platform, account, begins }) => {
            draw_table(frame, middle, state, now);
            let what = if begins { "Hold" } else { "End the hold of" };
            let of = printable(&format!("{platform}/{account}"));
            let text = format!("{what} {of}?\n\ny yes   any other key no");
            over(frame, middle, " sure? ", &text);
        }
        Mode::Table | Mode::Filter(_) => draw_table(frame, middle, state, now),
    }
    draw_foot(frame, bottom, state);
}

impl State {
    fn in_colour(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, state: &State, now: Timestamp) {
    let Some(all) = &state.overview else {
        let text = state.error.as_deref().unwrap_or("asking …");
        return frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
    };
    frame.render_widget(Paragraph::new(head(state, all, now)), area);
}

fn head<'a>(state: &State, all: &'a Overview, now: Timestamp) -> Vec<Line<'a>> {
    let nodes = match all.nodes.len() {
        0 => "no node".to_owned(),
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    let state_of = if all.running { nodes } else { "not running".to_owned() };
    let mut first = vec![
        Span::from("tollgate ").bold(),
        Span::from(format!("{state_of}  ")),
        Span::from(format!("{} waiting  ", number(all.waiting))),
        Span::from(format!("{} in flight  ", number(all.in_flight))),
    ];
    if let Some(postponed) = all.postponed.filter(|postponed| *postponed > 0) {
        first.push(Span::from(format!("{} put aside  ", number(postponed))));
    }
    if let Some(dead) = all.dead {
        let style = if dead > 0 { state.in_colour(Color::Red) } else { Style::new() };
        first.push(Span::styled(format!("{} dead", number(dead)), style));
    }
    let rates = &all.rates;
    let mut second = vec![Span::from(format!("{:.1} calls/s", rates.calls))];
    if let Some(allowed) = all.allowed {
        second.push(Span::from(format!(" of {allowed:.1} allowed")));
    }
    second.push(Span::from(format!("  minute {:.1}", all.rates_minute.calls)));
    let bad = [
        ("refused", rates.throttled),
        ("unreachable", rates.unreachable),
        ("not stored", rates.store_away),
        ("failed", rates.failed),
    ];
    for (what, rate) in bad.into_iter().filter(|(_, rate)| *rate > 0.0) {
        let text = format!("  {rate:.1} {what}");
        second.push(Span::styled(text, state.in_colour(Color::Yellow)));
    }
    let mut third = Vec::new();
    // First, so that no terminal is too narrow for it: all else is then as it was when an answer came last.
    if let Some(error) = &state.error {
        third.push(Span::styled(format!("{}  ", printable(error)), state.in_colour(Color::Red)));
    }
    match &all.eta {
        Some(eta) if all.waiting > 0 => {
            third.push(Span::from(format!("done in {}", done_in(eta, now))));
            if let Some(by) = &eta.by {
                third.push(Span::from(format!(", {} holds it longest", printable(by))));
            }
            if all.without_eta > 0 {
                third.push(Span::from(format!(", but for {} held", number(all.without_eta))));
            }
        }
        _ => third.push(Span::from(if all.waiting > 0 {
            "done: not known"
        } else {
            "nothing waits"
        })),
    }
    let away = all.nodes.iter().filter(|node| node.store_away || node.back_away);
    for node in away {
        let what = if node.store_away { "object store away" } else { "NATS away" };
        let text = format!("  {}: {what}", printable(&node.node));
        third.push(Span::styled(text, state.in_colour(Color::Red)));
    }
    if all.shards_silent > 0 {
        let text = format!("  {} shard(s) do not turn", all.shards_silent);
        third.push(Span::styled(text, state.in_colour(Color::Red)));
    }
    if state.silent > 0 {
        let text = format!("  {} node(s) do not answer", state.silent);
        third.push(Span::styled(text, state.in_colour(Color::Red)));
    }
    vec![Line::from(first), Line::from(second), Line::from(third)]
}

fn draw_rates(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let room = usize::from(area.width);
    let from = state.rates.len().saturating_sub(room);
    let rates: Vec<u64> = state.rates.iter().skip(from).copied().collect();
    let line = Sparkline::default().data(&rates).style(state.in_colour(Color::Cyan));
    frame.render_widget(line, area);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &mut State, now: Timestamp) {
    let (wide, wider) = (area.width >= WIDE, area.width >= WIDER);
    let narrow = area.width < NARROW;
    let mut widths = vec![Constraint::Length(11)];
    if !narrow {
        widths.push(Constraint::Length(6));
    }
    widths.extend([Constraint::Length(10), Constraint::Min(12)]);
    let mark = |sort: Sort, text: &str| {
        let sign = if state.reverse { "▲" } else { "▼" };
        if state.sort == sort { format!("{text}{sign}") } else { text.to_owned() }
    };
    let mut names = vec![format!("{:>11}", mark(Sort::Waiting, "WAITING"))];
    if !narrow {
        names.push(format!("{:>6}", mark(Sort::InFlight, "FLY")));
    }
    names.extend([format!("{:>10}", "DONE IN"), mark(Sort::Name, "ACCOUNT")]);
    if wide {
        widths.push(Constraint::Fill(1));
        names.push("WAITS FOR".to_owned());
    }
    if wider {
        widths.push(Constraint::Length(11));
        names.push(format!("{:>11}", mark(Sort::Until, "UNTIL")));
    }
    let rows = state.page.accounts.iter().map(|look| {
        let mut cells = vec![format!("{:>11}", number(look.waiting))];
        if !narrow {
            cells.push(format!("{:>6}", look.in_flight));
        }
        let eta = look.eta.as_ref().map_or_else(|| "-".into(), |eta| done_in(eta, now));
        let account = format!("{}/{}", look.platform, printable(&look.account));
        cells.extend([format!("{eta:>10}"), account]);
        if wide {
            cells.push(look.because.as_deref().map_or_else(String::new, printable));
        }
        if wider {
            let until = look.until.filter(|until| *until > now);
            let text = until.map_or_else(String::new, |until| span(left(until, now)).to_string());
            cells.push(format!("{text:>11}"));
        }
        let style = match look.cause {
            Some(Waits::Paused) => state.in_colour(Color::Magenta),
            Some(Waits::Hold) => state.in_colour(Color::Yellow),
            _ => Style::new(),
        };
        Row::new(cells).style(style)
    });
    let rows: Vec<Row<'_>> = rows.collect();
    let table = Table::new(rows, widths)
        .header(Row::new(names).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut state.table);
}

fn draw_account(frame: &mut Frame<'_>, area: Rect, state: &State, name: &str, now: Timestamp) {
    let title = format!(" {} ", printable(name));
    let block = Block::bordered().title(title);
    let text = match &state.account {
        Some(view) => account(view, now),
        None => "asking, or nothing is known of it".to_owned(),
    };
    frame.render_widget(Paragraph::new(text).block(block), area);
}

/// What is known of an account, in lines.
fn account(view: &AccountView, now: Timestamp) -> String {
    let mut lines = Vec::new();
    let eta = view.eta.as_ref().map_or_else(|| "not known".into(), |eta| done_in(eta, now));
    lines.push(format!(
        "{} waiting  {} in flight  done in {eta}",
        number(view.waiting),
        view.in_flight
    ));
    if let Some(because) = &view.because {
        let until = view
            .until
            .map_or_else(String::new, |until| format!(", for {}", span(left(until, now))));
        lines.push(format!("waits for {}{until}", printable(because)));
    }
    lines.extend(view.holds.iter().map(|hold| held(hold, now)));
    lines.push(String::new());
    for limit in &view.limits {
        if limit.shared {
            lines.push(format!("{:<20} shared per {}", limit.name, limit.per.join(" and ")));
        }
        for counter in &limit.counters {
            let api = counter.api.as_ref().or(limit.api.as_ref());
            let name =
                api.map_or_else(|| limit.name.clone(), |api| format!("{} {api}", limit.name));
            let frees = counter.frees.filter(|_| limit.kind != LimitKind::Bucket);
            let frees = frees
                .or(counter.clears)
                .map_or_else(String::new, |at| format!(" frees in {}", span(left(at, now))));
            let used = format!("{}/{}", number(counter.used), number(limit.max));
            lines.push(format!("{name:<20} {} {used}{frees}", gauge(counter, limit.max)));
        }
    }
    if !view.next.is_empty() {
        lines.push(String::new());
        let next = view.next.iter().take(SHOWN);
        let next: Vec<String> =
            next.map(|call| format!("{} in {}", call.api, span(left(call.at, now)))).collect();
        lines.push(format!("next calls: {}", next.join(", ")));
    }
    if !view.answers.is_empty() {
        lines.push(String::new());
        lines.push("last answers:".to_owned());
    }
    for answer in view.answers.iter().take(SHOWN) {
        let ago = span(left(now, answer.at));
        let status = answer.status.map_or_else(|| "-".into(), |status| status.to_string());
        lines.push(format!("  {ago} ago  {}  {status}  {}", answer.api, answer.class));
    }
    lines.join("\n")
}

fn held(hold: &HoldView, now: Timestamp) -> String {
    let by = match hold.by {
        Holder::Operator => "an operator",
        Holder::Provider => "the provider",
    };
    let until =
        hold.until.map_or_else(String::new, |until| format!(" for {}", span(left(until, now))));
    format!("held by {by}{until}: {}", printable(&hold.reason))
}

fn draw_dead(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let block =
        Block::bordered().title(" dead letters; `tollgate dead replay` collects them again ");
    let letters = state.dead.iter().map(|letter| {
        let dead = &letter.dead;
        let of = dead.fetch.as_ref().map_or_else(String::new, |fetch| {
            let part = |part: &Option<String>| part.as_deref().map_or_else(String::new, printable);
            format!("{}/{}/{}", part(&fetch.platform), part(&fetch.account), part(&fetch.api))
        });
        format!("{:>8} {} {of}  {}", letter.number.0, dead.code, printable(&dead.reason))
    });
    let lines: Vec<String> = letters.collect();
    let text = if lines.is_empty() { "none".to_owned() } else { lines.join("\n") };
    frame.render_widget(Paragraph::new(text).block(block), area);
}

/// A box in the middle.
fn over(frame: &mut Frame<'_>, area: Rect, title: &str, text: &str) {
    let wide = text.lines().map(|line| line.chars().count()).max().unwrap_or(0) + 4;
    let width = u16::try_from(wide).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(text.lines().count() + 2).unwrap_or(u16::MAX).min(area.height);
    let (x, y) = (area.x + (area.width - width) / 2, area.y + (area.height - height) / 2);
    let inner = Rect { x, y, width, height };
    frame.render_widget(Clear, inner);
    let block = Block::bordered().title(title.to_owned());
    frame.render_widget(Paragraph::new(text.to_owned()).block(block), inner);
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let text = match (&state.mode, &state.note) {
        (Mode::Filter(text), _) => format!("find: {}_", printable(text)),
        (_, Some(note)) => printable(note),
        (Mode::Table, None) => {
            let matching = number(state.page.matching);
            let search = match state.search.as_str() {
                "" => String::new(),
                search => format!(" with `{}`", printable(search)),
            };
            let held = if state.held { " that are held" } else { "" };
            format!(
                "{matching} accounts{search}{held}   / find  s sort  Enter open  p hold  d dead  ? keys  q quit"
            )
        }
        (_, None) => "q back".to_owned(),
    };
    frame.render_widget(Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM)), area);
}
