//! What fuzz targets see of the guard of `http.*`. Only with the feature `fuzz`.

use std::future::{Future, ready};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt;
use reqwest::Url;

use super::http_guard::{Guard, Lookup};

/// A name with these addresses.
struct Fixed(Vec<IpAddr>);

impl Lookup for Fixed {
    fn lookup(&self, _: &str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(ready(Ok(self.0.clone())))
    }
}

/// What a URL may connect to, by its host or, when that is a name, by the addresses it has:
/// `None` for text that is no URL of HTTP, nothing when it is refused.
pub fn reachable(url: &str, addresses: &[IpAddr], allow_private: bool) -> Option<Vec<IpAddr>> {
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let host = url.host_str()?;
    let guard = Guard::new(allow_private, Arc::new(Fixed(addresses.to_vec())));
    if guard.check(&url).is_err() {
        return Some(Vec::new());
    }
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Some(vec![address]);
    }
    let allowed = guard.addresses(host).now_or_never()?;
    Some(allowed.map_or_else(|_| Vec::new(), |allowed| allowed.into_iter().map(|a| a.ip()).collect()))
}
