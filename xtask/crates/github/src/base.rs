//! Where a GitHub is, and which addresses belong to it. Invariant: no address that a server names leads the token elsewhere.

use http::Uri;

use crate::call::Call;
use crate::failure::{self, Failure};

/// Where a GitHub is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// Scheme and host.
    pub(crate) origin: String,
    /// Path before all others: empty, or `/api/v3`.
    pub(crate) prefix: String,
    /// Scheme and host that files are uploaded to.
    pub(crate) uploads: String,
}

impl Base {
    pub(crate) fn parse(api: &str) -> Result<Base, Failure> {
        let refuse =
            |why: &str| Failure::Input(format!("cannot use the API URL `{}`: {why}", failure::clean(api)));
        let uri: Uri = api.parse().map_err(|_| refuse("it is not a URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(refuse("it has no scheme or no host"));
        };
        let is_local = matches!(authority.host(), "127.0.0.1" | "localhost" | "[::1]");
        if scheme != "https" && !(scheme == "http" && is_local) {
            return Err(refuse("the token may only travel over https"));
        }
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(refuse("it may hold neither a user nor a query"));
        }
        let origin = format!("{scheme}://{authority}");
        let uploads = match authority.as_str().strip_prefix("api.") {
            Some(rest) => format!("{scheme}://uploads.{rest}"),
            None => origin.clone(),
        };
        Ok(Base { origin, prefix: uri.path().trim_end_matches('/').to_owned(), uploads })
    }

    /// The path of a URL that a server named as the next page, only if it is the same server's.
    pub(crate) fn own_path(&self, url: &str, call: &Call) -> Result<String, Failure> {
        let path =
            url.strip_prefix(self.origin.as_str()).and_then(|rest| rest.strip_prefix(self.prefix.as_str()));
        match path {
            Some(path) if path.starts_with('/') => Ok(path.to_owned()),
            _ => Err(Failure::unexpected(call, "the next page is said to be on another server")),
        }
    }

    /// The URL for an upload, only if it is on the server for uploads.
    pub(crate) fn upload_url(&self, call: &Call) -> Result<String, Failure> {
        match call.path.strip_prefix(self.uploads.as_str()) {
            Some(path) if path.starts_with('/') => Ok(call.target()),
            _ => Err(Failure::unexpected(
                call,
                format!("the server names an address for uploads that is not on {}", self.uploads),
            )),
        }
    }
}

impl Base {
    /// An address that the API sends us to for the bytes of a file: another host, as well protected as the API itself.
    pub(crate) fn storage(&self, location: Option<&str>, call: &Call) -> Result<Uri, Failure> {
        let refuse = |why: &str| Failure::unexpected(call, format!("the server sends us {why}"));
        let uri: Uri = location
            .ok_or_else(|| refuse("elsewhere without saying where"))?
            .parse()
            .map_err(|_| refuse("to what is no address"))?;
        let is_open = uri.scheme_str() == Some("http") && self.origin.starts_with("http:");
        if uri.host().is_none() || uri.scheme_str() != Some("https") && !is_open {
            return Err(refuse("to an address that is not https"));
        }
        Ok(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_api_and_of_uploads() {
        let base = |api: &str| Base::parse(api).map(|base| (base.origin, base.prefix, base.uploads));
        let texts = |a: &str, b: &str, c: &str| Ok((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(
            base("https://api.github.com"),
            texts("https://api.github.com", "", "https://uploads.github.com")
        );
        assert_eq!(
            base("https://g.example/api/v3/"),
            texts("https://g.example", "/api/v3", "https://g.example")
        );
        assert!(base("http://127.0.0.1:80").is_ok());
        for bad in ["http://g.example", "https://user@g.example", "ftp://g", "", "/x", "https://g/?a=b"] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_server_cannot_send_us_to_another() {
        let base = Base::parse("https://api.github.com").unwrap();
        let call = |path: &str| Call::get(path, "list", "");
        assert_eq!(base.own_path("https://api.github.com/a?page=2", &call("/a")).unwrap(), "/a?page=2");
        for bad in
            ["https://api.github.com.evil.example/a", "https://evil.example/a", "http://api.github.com/a", ""]
        {
            assert!(base.own_path(bad, &call("/a")).is_err(), "{bad}");
            assert!(base.upload_url(&call(bad)).is_err(), "{bad}");
        }
        assert!(base.upload_url(&call("https://uploads.github.com/a")).is_ok());
        assert!(base.upload_url(&call("https://uploads.github.com.evil.example/a")).is_err());
    }

    #[test]
    fn files_come_over_https_only() {
        let call = Call::get("/a", "fetch", "");
        let github = Base::parse("https://api.github.com").unwrap();
        assert!(github.storage(Some("https://storage.example/x?signature=y"), &call).is_ok());
        for bad in [Some("http://storage.example/x"), Some("file:///etc/passwd"), Some("/x"), Some(""), None]
        {
            assert!(github.storage(bad, &call).is_err(), "{bad:?}");
        }
        let local = Base::parse("http://127.0.0.1:80").unwrap();
        assert!(local.storage(Some("http://127.0.0.1:81/x"), &call).is_ok());
    }
}
