//! Every way in which providers tell of limits, as tables with the page that says so.

mod formats;
mod pacing;
mod rules;
mod watch;
