pub mod ids;
pub mod ledger;
pub mod queue;
pub mod state;
