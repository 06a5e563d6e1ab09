//! Posts of the node itself to receivers that people name (webhooks): behind the same guard as
//! `http.*`, with certificates checked, no redirect followed, and an answer that is hardly read.
//!
//! Messages name a host and never a path or a query, since secrets stand there.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};

use super::http::{build, failure_of};
use super::http_guard::{Guard, SystemLookup};

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2_048;
/// Bytes of an answer that are read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Longest time for that, once the status is known.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The client of a node for its posts.
pub struct Sender {
    guard: Guard,
    client: OnceLock<Client>,
}

impl Sender {
    /// One that reaches private and loopback addresses only where that is allowed.
    pub fn new(allow_private_network: bool) -> Arc<Self> {
        let guard = Guard::new(allow_private_network, Arc::new(SystemLookup));
        Arc::new(Self { guard, client: OnceLock::new() })
    }

    /// Refuses a URL that could never be posted to. A name is looked up, and its addresses are checked,
    /// with each post. The error says what is wrong.
    pub fn check(&self, url: &str) -> Result<(), String> {
        self.parse(url).map(|_| ())
    }

    fn parse(&self, text: &str) -> Result<Url, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("is longer than {URL_BYTES_MAX} bytes"));
        }
        // The parser would pass over them.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("has spaces or control characters".into());
        }
        let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must start with http:// or https://".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user or a password in it, which would be shown: the signature says who \
                        sends"
                .into());
        }
        if url.fragment().is_some() {
            return Err("has a fragment, which is never sent".into());
        }
        self.guard.check(&url).map_err(|refused| refused.to_string())?;
        Ok(url)
    }

    /// Posts JSON, within a time for all of it: the status of the answer. The error says why there is
    /// none.
    pub async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<u16, String> {
        let url = self.parse(url)?;
        let mut sent = HeaderMap::with_capacity(headers.len() + 1);
        sent.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|_| format!("{name} cannot be a header"))?;
            sent.insert(HeaderName::from_static(name), value);
        }
        let client = self.client.get_or_init(|| build(&self.guard, false));
        let posted = client.post(url.clone()).headers(sent).body(body).timeout(timeout).send().await;
        let mut response = posted.map_err(|error| failure_of(&url, &error).fault.message)?;
        let status = response.status().as_u16();
        // What it says beside its status is of no interest, and may have no end.
        let rest = async {
            let mut read = 0;
            while read < ANSWER_BYTES_MAX
                && let Ok(Some(chunk)) = response.chunk().await
            {
                read += chunk.len();
            }
        };
        let _ = tokio::time::timeout(ANSWER_MAX.min(timeout), rest).await;
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_must_not_be_are_refused() {
        let sender = Sender::new(false);
        for url in [
            "http://127.0.0.1/",
            "http://169.254.169.254/latest",
            "http://[::1]/",
            "http://2130706433/",
            "http://10.0.0.1:80/x",
            "ftp://example.com/",
            "file:///etc/passwd",
            "example.com",
            "",
            "http://user:pw@example.com/",
            "http://user@example.com/",
            "http://example.com/#x",
            "http://example.com/\r\nx-a: b",
            "http://example.com/a b",
            "\thttp://example.com/",
        ] {
            assert!(sender.check(url).is_err(), "{url:?}");
        }
        assert!(sender.check(&format!("https://example.com/{}", "a".repeat(3_000))).is_err());
        assert_eq!(sender.check("https://example.com:8443/hook?token=1"), Ok(()));
        assert_eq!(Sender::new(true).check("http://127.0.0.1:9/"), Ok(()));
        assert!(Sender::new(true).check("http://169.254.169.254/").is_err());
    }
}
