//! Posts to receivers that redirect, hang or never end.

use std::time::Duration;

use super::super::push::Sender;
use super::server::{Server, answer, redirect};

const TIMEOUT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_status_is_the_answer_and_a_redirect_is_one() {
    let server = Server::start(|request| match request.split(' ').nth(1) {
        Some("/moved") => redirect(302, "/private"),
        _ => answer("410 Gone", "", "away"),
    })
    .await;
    let sender = Sender::new(true);
    let headers = [("webhook-id", "evt_1".to_owned())];
    let posted = sender.post(&server.url("/moved"), &headers, b"{}".to_vec(), TIMEOUT).await;
    assert_eq!((posted, server.count()), (Ok(302), 1), "it was not followed");
    assert!(server.last().contains("webhook-id: evt_1"), "{}", server.last());
    assert_eq!(sender.post(&server.url("/x"), &headers, b"{}".to_vec(), TIMEOUT).await, Ok(410));
    let forged = [("webhook-id", "a\r\nx: y".to_owned())];
    assert!(sender.post(&server.url("/x"), &forged, Vec::new(), TIMEOUT).await.is_err());
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_receiver_that_hangs_or_never_ends_is_left() {
    let server = Server::start(|request| match request.contains("/hang") {
        true => Vec::new(),
        false => b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nxxx".to_vec(),
    })
    .await;
    let sender = Sender::new(true);
    let hung = sender.post(&server.url("/hang?secret"), &[], Vec::new(), TIMEOUT).await.unwrap_err();
    assert!(hung.contains("took too long") && !hung.contains("secret"), "{hung}");
    assert_eq!(sender.post(&server.url("/endless"), &[], Vec::new(), TIMEOUT).await, Ok(200));
}
