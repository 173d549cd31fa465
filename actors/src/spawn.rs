//! Tasks of a node that need no thread of their own.

use tokio::task::JoinHandle;

/// Starts a task on the runtime. Under a simulation it belongs to the simulated process that starts it, and stops
/// and dies with it.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(test)]
    if crate::tests::is_simulated() {
        return tokio::task::spawn_local(task);
    }
    tokio::spawn(task)
}
