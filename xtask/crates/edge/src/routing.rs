//! Which route a request takes, and whether a table is one that requests can be routed by. Pure: it does not know
//! connections or files. A table that passes [`check`] sends every request to exactly one place or to none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use hyper::header::{self, HeaderName};

use crate::control::{Preview, Route, SCHEMA, Table};
use crate::policy::{self, RoutePolicy};

/// Less would be another file every few requests.
const MIN_LOG_BYTES: u64 = 64 * 1024;
const MAX_KEPT_LOGS: u32 = 1000;

/// The routes of one table, ordered for lookup.
#[derive(Debug, Default)]
pub(crate) struct Router {
    by_host: HashMap<String, Vec<Arc<Entry>>>,
    any_host: Vec<Arc<Entry>>,
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Without a slash at the end, so the root is empty.
    prefix: String,
    strip: bool,
    /// A key of the table's slots.
    pub(crate) slot: String,
    pub(crate) policy: RoutePolicy,
}

impl Router {
    /// The lookup structure of routes that passed [`check`]; what was counted for the same routes `before` goes on.
    pub(crate) fn new(routes: &[Route], before: &Router) -> Router {
        let mut router = Router::default();
        for route in routes {
            let prefix = route.path_prefix.trim_end_matches('/').to_owned();
            let host = route.host.as_deref().map(normal_host);
            let known = before.entry(host.as_deref(), &prefix).map(|entry| &entry.policy);
            let policy = RoutePolicy::new(&route.policy, known);
            let entry =
                Arc::new(Entry { prefix, strip: route.strip_prefix, slot: route.slot.clone(), policy });
            match host {
                Some(host) => router.by_host.entry(host).or_default().push(entry),
                None => router.any_host.push(entry),
            }
        }
        for entries in router.by_host.values_mut().chain([&mut router.any_host]) {
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.prefix.len()));
        }
        router
    }

    /// The most specific route: the exact host before any host, then the longest prefix. `host` is a [`normal_host`].
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Arc<Entry>> {
        let exact = self.by_host.get(host).map_or(&[][..], Vec::as_slice);
        exact.iter().chain(&self.any_host).find(|entry| entry.matches(path))
    }

    /// The entry of exactly this route.
    fn entry(&self, host: Option<&str>, prefix: &str) -> Option<&Arc<Entry>> {
        let entries = host.map_or(Some(&self.any_host), |host| self.by_host.get(host))?;
        entries.iter().find(|entry| entry.prefix == prefix)
    }

    /// Whether any route leads to `slot`.
    pub(crate) fn leads_to(&self, slot: &str) -> bool {
        self.by_host.values().flatten().chain(&self.any_host).any(|entry| entry.slot == slot)
    }
}

impl Entry {
    fn matches(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.prefix.as_str());
        rest.is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !self.prefix.is_empty()))
    }

    /// The prefix that the upstream does not see, where one is removed.
    pub(crate) fn stripped_prefix(&self) -> Option<&str> {
        (self.strip && !self.prefix.is_empty()).then_some(self.prefix.as_str())
    }

    /// The path and query that the upstream sees; always begins with `/`.
    pub(crate) fn upstream_target(&self, path_and_query: &str) -> String {
        match self.stripped_prefix().and_then(|prefix| path_and_query.strip_prefix(prefix)) {
            Some(rest) if rest.starts_with('/') => rest.to_owned(),
            Some(rest) => format!("/{rest}"),
            None => path_and_query.to_owned(),
        }
    }
}

/// The host as routes compare it: without port, brackets, case and the dot of a fully qualified name.
pub(crate) fn normal_host(host: &str) -> String {
    let name = match host.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or(literal),
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or(host),
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Refuses a table that requests cannot be routed by, with the first reason.
pub(crate) fn check(table: &Table) -> Result<()> {
    ensure!(table.schema == SCHEMA, "the table's schema is `{}`, this edge knows `{SCHEMA}`", table.schema);
    for (name, slot) in &table.slots {
        ensure!(!slot.upstreams.is_empty(), "slot `{name}` has no upstream");
        for upstream in &slot.upstreams {
            ensure!(
                upstream.port() != 0,
                "slot `{name}` has the upstream {upstream}, which nobody can listen on"
            );
        }
    }
    if let Some(log) = &table.access_log {
        ensure!(
            log.max_bytes >= MIN_LOG_BYTES,
            "an access log of less than {MIN_LOG_BYTES} bytes keeps nothing"
        );
        ensure!(log.keep <= MAX_KEPT_LOGS, "at most {MAX_KEPT_LOGS} former access logs are kept");
    }
    if let Some(preview) = &table.preview {
        check_preview(preview)?;
        check_routes(&preview.routes, &table.slots)?;
    }
    check_routes(&table.routes, &table.slots)
}

fn check_preview(preview: &Preview) -> Result<()> {
    let header = &preview.header;
    let is_name = HeaderName::from_bytes(header.as_bytes()).is_ok_and(|name| name.as_str() == header);
    ensure!(is_name, "`{header}` is no header name in lower case");
    let is_spoken_for = [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE]
        .iter()
        .any(|name| name.as_str() == header);
    ensure!(!is_spoken_for, "the header `{header}` has another meaning");
    Ok(())
}

fn check_routes<T>(routes: &[Route], slots: &BTreeMap<String, T>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for route in routes {
        check_route(route, slots)?;
        let host = route.host.as_deref().map(normal_host);
        if !seen.insert((host, route.path_prefix.trim_end_matches('/'))) {
            let host = route.host.as_deref().unwrap_or("any host");
            bail!("two routes have the same host and prefix: {host} `{}`", route.path_prefix);
        }
    }
    Ok(())
}

fn check_route<T>(route: &Route, slots: &BTreeMap<String, T>) -> Result<()> {
    let prefix = &route.path_prefix;
    ensure!(prefix.starts_with('/'), "the path prefix `{prefix}` does not begin with `/`");
    let odd = |c: char| c.is_whitespace() || c.is_control() || "?#".contains(c);
    ensure!(!prefix.contains(odd) && !prefix.contains("//"), "the path prefix `{prefix}` is not a path");
    ensure!(
        slots.contains_key(&route.slot),
        "the route for `{prefix}` leads to the unknown slot `{}`",
        route.slot
    );
    policy::check(&route.policy).with_context(|| format!("the policy of the route for `{prefix}`"))?;
    if let Some(host) = &route.host {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        let name = normal_host(host);
        ensure!(!name.is_empty() && host.chars().all(allowed), "`{host}` is not a host name");
        let is_bare = host.trim_matches(['[', ']']).trim_end_matches('.').eq_ignore_ascii_case(&name);
        ensure!(is_bare, "the route's host `{host}` has a port: routes match names alone");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Slot;

    fn route(host: Option<&str>, prefix: &str, slot: &str) -> Route {
        let host = host.map(str::to_owned);
        Route {
            host,
            path_prefix: prefix.into(),
            strip_prefix: false,
            slot: slot.into(),
            policy: Default::default(),
        }
    }

    fn table(routes: Vec<Route>) -> Table {
        let slot = Slot { service: "s".into(), upstreams: vec!["127.0.0.1:1".parse().unwrap()] };
        let slots = ["a", "b", "c", "d"].map(|name| (name.to_owned(), slot.clone())).into();
        Table { generation: 1, routes, slots, ..Table::default() }
    }

    #[track_caller]
    fn find(router: &Router, host: &str, path: &str) -> Option<String> {
        router.find(&normal_host(host), path).map(|entry| entry.slot.clone())
    }

    #[test]
    fn exact_host_before_any_host_and_longest_whole_prefix_first() {
        let routes = [
            route(None, "/", "a"),
            route(None, "/x/y", "b"),
            route(Some("Example.com"), "/x", "c"),
            route(Some("::1"), "/", "d"),
        ];
        let router = Router::new(&routes, &Router::default());
        for (host, path, slot) in [
            ("other", "/", "a"),
            ("other", "/x", "a"),
            ("other", "/x/y", "b"),
            ("other", "/x/y/z", "b"),
            ("other", "/x/yz", "a"),
            ("EXAMPLE.com:8080", "/x/y", "c"),
            ("example.com.", "/x", "c"),
            ("example.com", "/xx", "a"),
            ("[::1]:80", "/x/y", "d"),
            ("[::1]", "/", "d"),
        ] {
            assert_eq!(find(&router, host, path).as_deref(), Some(slot), "{host} {path}");
        }
        assert_eq!(find(&router, "other", "*"), None);
        assert_eq!(find(&Router::new(&[route(None, "/x", "a")], &Router::default()), "h", "/"), None);
    }

    #[test]
    fn a_stripped_prefix_leaves_a_path() {
        let entry = |prefix: &str, strip| Entry {
            prefix: prefix.into(),
            strip,
            slot: "a".into(),
            policy: RoutePolicy::default(),
        };
        let strip = |prefix: &str| entry(prefix, true);
        assert_eq!(strip("/a").upstream_target("/a/b?q=/a"), "/b?q=/a");
        assert_eq!(strip("/a").upstream_target("/a"), "/");
        assert_eq!(strip("/a").upstream_target("/a?q"), "/?q");
        assert_eq!(strip("").upstream_target("/a?q"), "/a?q");
        assert_eq!(entry("/a", false).upstream_target("/a/b"), "/a/b");
    }

    #[test]
    fn only_tables_that_route_are_accepted() {
        check(&table(vec![route(None, "/", "a"), route(Some("h"), "/", "b"), route(None, "/a/", "c")]))
            .unwrap();
        check(&table(vec![route(Some("[::1]"), "/", "a"), route(Some("fd00::1"), "/", "a")])).unwrap();
        for bad in [
            route(None, "/", "unknown"),
            route(None, "", "a"),
            route(None, "x", "a"),
            route(None, "/x?y", "a"),
            route(None, "/x//y", "a"),
            route(Some(""), "/", "a"),
            route(Some("h:80"), "/", "a"),
            route(Some("[::1]:80"), "/", "a"),
            route(Some("*.example.com"), "/", "a"),
        ] {
            assert!(check(&table(vec![bad.clone()])).is_err(), "{bad:?}");
        }
        assert!(check(&table(vec![route(Some("H"), "/x", "a"), route(Some("h."), "/x/", "b")])).is_err());
        let mut no_upstream = table(vec![]);
        no_upstream.slots.insert("e".into(), Slot { service: "s".into(), upstreams: vec![] });
        assert!(check(&no_upstream).is_err());
        let preview = |header: &str, slot: &str| Table {
            preview: Some(Preview {
                header: header.into(),
                value: stdx::Digest::of("secret"),
                routes: vec![route(None, "/", slot)],
            }),
            ..table(vec![])
        };
        check(&preview("x-preview", "a")).unwrap();
        for bad in
            [preview("X-Preview", "a"), preview("host", "a"), preview("a b", "a"), preview("x", "unknown")]
        {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
