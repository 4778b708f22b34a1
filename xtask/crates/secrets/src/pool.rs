//! Work spread over threads, with results in an order that does not depend on them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use finding::Finding;

use crate::Options;

/// What `work` finds for every item, in the order of findings. The first error ends all.
pub(crate) fn each<T: Sync>(
    items: &[T],
    options: &Options<'_>,
    work: impl Fn(&T) -> Result<Vec<Finding>> + Sync,
) -> Result<Vec<Finding>> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            options.check()?;
            match work(item) {
                Ok(more) => found.extend(more),
                Err(error) => {
                    next.store(items.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(found)
    };
    let threads = options.threads.get().min(items.len()).max(1);
    let all = Mutex::new(Vec::new());
    let add = |result| all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(result);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| add(run()));
        }
        add(run());
    });
    let results = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut found: Vec<Finding> =
        results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    sort(&mut found);
    Ok(found)
}

/// By place, then by rule; the same secret at the same place once.
pub(crate) fn sort(found: &mut Vec<Finding>) {
    let order = |a: &Finding, b: &Finding| {
        (&a.place, &a.rule.id, &a.key).cmp(&(&b.place, &b.rule.id, &b.key)).then_with(|| a.cmp(b))
    };
    found.sort_by(order);
    found.dedup();
}
