//! What is told and when, without a clock; and posts to receivers on real sockets.

mod alarms;
mod posts;
mod watch;

use super::*;
