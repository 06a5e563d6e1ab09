//! The vault through its own door, against values that were sealed by another implementation.

use opcode_engine::expr::interpolate::Template;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What `openssl rand -hex 32` could have given.
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const PASSPHRASE: &str = "a long enough passphrase";
/// `correct horse` as API_KEY, sealed with KEY by the AES-GCM of OpenSSL.
const BY_KEY: &str = r#"{"secret":{"v":1,"key":"3daaf918a97adff4","nonce":"AAECAwQFBgcICQoL","sealed":"JG2kaaCGtjvlLuX41Ct715DIKrSUyQpKlYoGrlU="},"created_at":1,"updated_at":2}"#;
/// The same with a key that the Argon2id of OpenSSL made of PASSPHRASE.
const BY_PASSPHRASE: &str = r#"{"secret":{"v":1,"key":"26097bc0775a8fa5","derivation":{"salt":"AAECAwQFBgcICQoLDA0ODw==","memory_kib":65536,"passes":3},"nonce":"AAECAwQFBgcICQoL","sealed":"mzz4gNMUdKJFIb+DZXwDw6AEmxRLfkSifv69k88="},"created_at":1,"updated_at":2}"#;

fn keys(files: &str, passphrases: &str) -> Keys {
    let mut keys = Keys::default();
    if !files.is_empty() {
        keys.add_key_file(files).unwrap();
    }
    if !passphrases.is_empty() {
        keys.add_passphrases(passphrases).unwrap();
    }
    keys
}

fn vault(keys: Keys, store: &Arc<MemoryStore>) -> Arc<Vault> {
    Vault::new(keys, store.clone())
}

async fn opened(vault: &Vault, name: &str) -> Result<String, VaultError> {
    opened_in(vault, &Namespace::default(), name).await
}

async fn opened_in(vault: &Vault, namespace: &Namespace, key: &str) -> Result<String, VaultError> {
    let resolved = vault.resolve(namespace, &BTreeSet::from([key])).await;
    resolved.map(|resolved| resolved.value(key).to_owned())
}

fn text(value: &str) -> SecretString {
    SecretString::from(value)
}

#[tokio::test]
async fn what_was_sealed_by_others_opens() {
    let store = Arc::new(MemoryStore::default());
    store.insert("API_KEY", BY_KEY);
    assert_eq!(opened(&vault(keys(KEY, ""), &store), "API_KEY").await.unwrap(), "correct horse");
    store.insert("API_KEY", BY_PASSPHRASE);
    assert_eq!(opened(&vault(keys("", PASSPHRASE), &store), "API_KEY").await.unwrap(), "correct horse");
    // And what is sealed here has their form, byte for byte.
    let sealing = Ring::new(keys(KEY, "")).first().await.unwrap();
    let nonce = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let sealed = Sealed::seal(&sealing.key, None, "API_KEY", "correct horse", nonce);
    let record = Record { secret: sealed, created_at: Timestamp(1), updated_at: Timestamp(2) };
    assert_eq!(record.written(), BY_KEY);
}

#[tokio::test]
async fn what_is_kept_elsewhere_opens_under_its_own_name_alone() {
    let store = Arc::new(MemoryStore::default());
    let vault = vault(keys(KEY, ""), &store);
    let sealed = vault.seal("webhook/a", &text("whsec_value")).await.unwrap();
    assert!(!sealed.contains("whsec_value"));
    assert_eq!(vault.unseal("webhook/a", &sealed).await.unwrap().expose_secret(), "whsec_value");
    assert!(matches!(vault.unseal("webhook/b", &sealed).await, Err(VaultError::Damaged { .. })));
    let other = super::Vault::new(keys(OTHER, ""), store.clone());
    assert!(matches!(other.unseal("webhook/a", &sealed).await, Err(VaultError::WrongKey { .. })));
    assert_eq!(vault.resealed("webhook/a", &sealed).await.unwrap(), None, "it is so already");
    let mut both = keys(OTHER, "");
    both.add_key_file(KEY).unwrap();
    let both = super::Vault::new(both, store.clone());
    let anew = both.resealed("webhook/a", &sealed).await.unwrap().expect("it was sealed with another");
    assert_eq!(other.unseal("webhook/a", &anew).await.unwrap().expose_secret(), "whsec_value");
    assert!(matches!(Vault::closed().seal("webhook/a", &text("x")).await, Err(VaultError::NoKey)));
    assert!(vault.list().await.unwrap().0.is_empty(), "it is not among the secrets");
}

#[tokio::test]
async fn a_secret_is_set_listed_and_removed() {
    let store = Arc::new(MemoryStore::default());
    let vault = vault(keys(KEY, ""), &store);
    let (first, is_new, _) = vault.set("b.B-1", &text("first value")).await.unwrap();
    assert!(is_new);
    vault.set("a", &text("another value")).await.unwrap();
    let (again, is_new, _) = vault.set("b.B-1", &text("second value")).await.unwrap();
    assert!(!is_new && again.created_at == first.created_at && again.updated_at >= first.updated_at);
    assert_eq!(opened(&vault, "b.B-1").await.unwrap(), "second value");
    let (listed, _) = vault.list().await.unwrap();
    assert_eq!(listed.iter().map(|secret| secret.key.as_str()).collect::<Vec<_>>(), ["a", "b.B-1"]);
    assert!(vault.remove("a").await.unwrap().0);
    assert!(!vault.remove("a").await.unwrap().0);
    let missing = opened(&vault, "a").await.unwrap_err();
    assert!(missing.to_string().contains("no secret `a`: `opcode secret set a`"), "{missing}");
    let kept = format!("{store:?}");
    assert!(!kept.contains("value\"") && !kept.contains("second"), "{kept}");
    assert_eq!(Fault::from(missing).code, Code::VaultError);
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_refused() {
    let store = Arc::new(MemoryStore::default());
    let vault = vault(keys(KEY, ""), &store);
    for (name, value, field) in [
        ("a b", "long enough", "key"),
        ("", "long enough", "key"),
        ("k", "short", "value"),
        ("k", "abc     \n", "value"),
        ("k", &"x".repeat(VALUE_BYTES_MAX + 1), "value"),
    ] {
        let refused = vault.set(name, &text(value)).await.unwrap_err();
        assert!(matches!(&refused, VaultError::Refused { field: found, .. } if *found == field), "{refused}");
    }
    for lines in ["", "# none", "abcd", &KEY[2..], "not base64 at all"] {
        assert!(Keys::default().add_key_file(lines).is_err(), "{lines}");
    }
    let why = Keys::default().add_passphrases("hunter2").unwrap_err();
    assert!(why.contains("takes 12") && !why.contains("hunter2"), "{why}");
    assert!(Keys::default().add_key_file(&format!("{KEY}\n").repeat(9)).is_err());
}

#[tokio::test]
async fn without_the_key_nothing_opens_and_nothing_is_sealed_beside() {
    let store = Arc::new(MemoryStore::default());
    vault(keys(KEY, ""), &store).set("k", &text("a value")).await.unwrap();
    for wrong in [keys(OTHER, ""), keys("", PASSPHRASE)] {
        let wrong = vault(wrong, &store);
        let error = opened(&wrong, "k").await.unwrap_err();
        assert!(error.to_string().contains("sealed with key 3daaf918a97adff4"), "{error}");
        let error = wrong.set("other", &text("a value")).await.unwrap_err();
        assert!(matches!(error, VaultError::WrongKey { .. }), "{error}");
        assert!(matches!(wrong.rotate().await.unwrap_err(), VaultError::WrongKey { .. }));
    }
    let closed = vault(Keys::default(), &store);
    assert!(matches!(opened(&closed, "k").await.unwrap_err(), VaultError::NoKey));
    assert!(matches!(closed.set("k", &text("a value")).await.unwrap_err(), VaultError::NoKey));
    // Names and removals take no key.
    assert_eq!(closed.list().await.unwrap().0.len(), 1);
    assert!(closed.remove("k").await.unwrap().0);
    assert_eq!(Vault::closed().list().await.unwrap().0.len(), 0);
}

#[tokio::test]
async fn what_was_altered_or_put_under_another_name_does_not_open() {
    let store = Arc::new(MemoryStore::default());
    let vault = vault(keys(KEY, ""), &store);
    store.insert("API_KEY", BY_KEY);
    store.insert("OTHER", BY_KEY);
    store.insert("BYTE", &BY_KEY.replace("JG2k", "JG2l"));
    store.insert("NONCE", &BY_KEY.replace("AAECAwQFBgcICQoL", "AAECAwQF"));
    store.insert("VERSION", &BY_KEY.replace("\"v\":1", "\"v\":2"));
    store.insert("FIELD", &BY_KEY.replace("\"v\":1", "\"v\":1,\"w\":1"));
    store.insert("TEXT", "{}");
    store.insert("WORK", &BY_PASSPHRASE.replace("65536", "4294967295"));
    opened(&vault, "API_KEY").await.unwrap();
    for name in ["OTHER", "BYTE", "NONCE", "VERSION", "FIELD", "TEXT", "WORK"] {
        let error = opened(&vault, name).await.unwrap_err();
        assert!(matches!(error, VaultError::Damaged { .. }), "{name}: {error}");
    }
    // They are listed, and can be set anew.
    assert_eq!(vault.list().await.unwrap().0.len(), 8);
    vault.set("TEXT", &text("a value")).await.unwrap();
    assert_eq!(opened(&vault, "TEXT").await.unwrap(), "a value");
}

#[tokio::test]
async fn every_node_makes_the_same_key_of_a_passphrase_and_a_vault_has_one() {
    let store = Arc::new(MemoryStore::default());
    let nodes = [vault(keys("", PASSPHRASE), &store), vault(keys("", PASSPHRASE), &store)];
    nodes[0].set("a", &text("value of a")).await.unwrap();
    nodes[1].set("b", &text("value of b")).await.unwrap();
    assert_eq!(opened(&nodes[1], "a").await.unwrap(), "value of a");
    assert_eq!(opened(&nodes[0], "b").await.unwrap(), "value of b");
    let (all, _) = store.list().await.unwrap();
    let ids = all.iter().map(|(name, stored)| Record::read(name, &stored.body).unwrap().secret.key);
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 1, "the second used the salt of the first");
}

#[tokio::test]
async fn a_key_is_rotated_without_a_moment_at_which_nothing_opens() {
    let store = Arc::new(MemoryStore::default());
    let old = vault(keys(KEY, ""), &store);
    old.set("a", &text("value of a")).await.unwrap();
    old.set("b", &text("value of b")).await.unwrap();
    let before = old.list().await.unwrap().0;
    // Each node is told of the new key before any seals with it.
    let between = vault(keys(&format!("{KEY}\n{OTHER}"), ""), &store);
    let new = vault(keys(&format!("{OTHER} # of today\n{KEY}"), ""), &store);
    new.set("b", &text("value of b")).await.unwrap();
    assert_eq!(opened(&between, "b").await.unwrap(), "value of b");
    assert_eq!(new.rotate().await.unwrap(), Rotated { resealed: 1, unchanged: 1, failed: Vec::new() });
    assert_eq!(new.rotate().await.unwrap(), Rotated { resealed: 0, unchanged: 2, failed: Vec::new() });
    let after = vault(keys(OTHER, ""), &store);
    assert_eq!(opened(&after, "a").await.unwrap(), "value of a");
    assert!(opened(&old, "a").await.is_err());
    // Its value was not set anew.
    assert_eq!(after.list().await.unwrap().0[0], before[0]);
    // From a passphrase to a key, and one that nobody can open is left as it is.
    store.insert("lost", &BY_KEY.replace("3daaf918a97adff4", "0000000000000000"));
    let both = vault(keys(KEY, PASSPHRASE), &store);
    store.insert("API_KEY", BY_PASSPHRASE);
    let rotated = both.rotate().await.unwrap();
    assert_eq!((rotated.resealed, rotated.failed.len()), (1, 3));
    assert_eq!(opened(&vault(keys(KEY, ""), &store), "API_KEY").await.unwrap(), "correct horse");
}

#[tokio::test]
async fn each_namespace_has_secrets_of_its_own() {
    let store = Arc::new(MemoryStore::default());
    let vault = vault(keys(KEY, ""), &store);
    vault.set("K", &text("of default")).await.unwrap();
    vault.set("team/K", &text("of the team")).await.unwrap();
    let [team, other] = ["team", "other"].map(|name| Namespace::parse(name).unwrap());
    assert_eq!(opened(&vault, "K").await.unwrap(), "of default");
    assert_eq!(opened_in(&vault, &team, "K").await.unwrap(), "of the team");
    let missing = opened_in(&vault, &other, "K").await.unwrap_err();
    assert!(missing.to_string().starts_with("there is no secret `K`"), "{missing}");
    assert!(opened(&vault, "team/K").await.is_err(), "no run names another's");
    // What was sealed in one namespace is no secret of another.
    let (kept, _) = store.get("team/K").await.unwrap();
    store.insert("other/K", &kept.unwrap().body);
    let moved = opened_in(&vault, &other, "K").await.unwrap_err();
    assert_eq!(moved.to_string(), "secret `K` cannot be opened: it was altered since it was sealed");
    for wrong in ["../K", "default/K", "team/../K", "Team/K", "/K", "team/"] {
        let refused = vault.set(wrong, &text("a value")).await;
        assert!(matches!(refused, Err(VaultError::Refused { field: "key", .. })), "{wrong}");
    }
}

#[tokio::test]
async fn what_changes_meanwhile_is_tried_again_and_not_for_ever() {
    /// Somebody else writes whenever this is about to.
    struct Busy(MemoryStore);
    impl SecretStore for Busy {
        fn get(&self, name: &str) -> Answer<Option<Stored>> {
            let answer = self.0.get(name);
            self.0.insert(name, BY_KEY);
            answer
        }
        fn list(&self) -> Answer<Vec<(String, Stored)>> {
            self.0.list()
        }
        fn put(&self, name: &str, body: String, expected: Option<u64>) -> Answer<()> {
            self.0.put(name, body, expected)
        }
        fn remove(&self, name: &str, expected: u64) -> Answer<()> {
            self.0.remove(name, expected)
        }
    }
    let vault = Vault::new(keys(KEY, ""), Arc::new(Busy(MemoryStore::default())));
    assert!(matches!(vault.set("API_KEY", &text("a value")).await, Err(VaultError::Contended(_))));
    assert!(matches!(vault.remove("API_KEY").await, Err(VaultError::Contended(_))));
}

fn mask(secrets: &[(&str, &str)]) -> Mask {
    Mask::of(secrets.iter().copied())
}

#[track_caller]
fn masks(value: &str, from: &str, to: &str) {
    assert_eq!(mask(&[("K", value)]).text(from.to_owned()), to, "{value:?} in {from:?}");
}

#[test]
fn a_value_is_found_in_whatever_form_it_comes_back() {
    let value = "p&ss w\"rd/é";
    masks(value, "no such thing: p&ss w", "no such thing: p&ss w");
    masks(value, "<p&ss w\"rd/é>", "<[secret K]>");
    masks(value, "<P&SS W\"RD/é>", "<[secret K]>");
    masks(value, "p&ss w\"rd/ép&ss w\"rd/é", "[secret K][secret K]");
    masks(value, "GET /?k=p%26ss%20w%22rd%2F%C3%A9&x", "GET /?k=[secret K]&x");
    masks(value, "k=p%26ss+w%22rd/%c3%a9&x", "k=[secret K]&x");
    masks(value, r#"{"k":"p&ss w\"rd/é"}"#, r#"{"k":"[secret K]"}"#);
    masks(value, r#""p\u0026ss w\"rd\/\u00E9""#, r#""[secret K]""#);
    masks(value, r#""{\"k\":\"p&ss w\\\"rd/é\"}""#, r#""{\"k\":\"[secret K]\"}""#);
    masks(value, r#"{"url":"p%26ss%20w%22rd\/%C3%A9"}"#, r#"{"url":"[secret K]"}"#);
    masks(value, &hex::encode(value), "[secret K]");
    masks(value, &hex::encode_upper(value), "[secret K]");
    masks("a \u{1F511} key", r#""a \ud83d\udd11 key""#, r#""[secret K]""#);
    masks("  padded \n", "padded", "[secret K]");
    // What is not quite an encoding harms nothing.
    masks(value, r"100% \ud83d \u00 %zz \", r"100% \ud83d \u00 %zz \");
}

#[test]
fn parts_that_are_as_secret_alone_are_found_alone() {
    let pem = "-----BEGIN KEY-----\nMIIBVgIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n";
    let hook = "https://u:passwd@hooks.example.com/services/T000/aB3dE5gH7jK9mN";
    masks(
        hook,
        "services/T000/aB3dE5gH7jK9mN at hooks.example.com",
        "services/T000/[secret K] at hooks.example.com",
    );
    masks(hook, "wrong password passwd", "wrong password [secret K]");
    masks(pem, "bad line: hkiG9w0BAQEFAASC!", "bad line: [secret K]!");
    let account = r#"{"user": "robot", "private_key": "line-one-1\nline-two-2", "pin": 12345678}"#;
    let mask = mask(&[("K", account)]);
    let echoed = json!({"private_key": "line-one-1\nline-two-2", "pin": 12345678, "n": [1, null, true]});
    let masked = json!({"private_key": "[secret K]", "pin": "[secret K]", "n": [1, null, true]});
    assert_eq!(mask.value(echoed), masked);
    assert_eq!(mask.text("line-two-2".into()), "[secret K]");
}

#[test]
fn several_secrets_hide_each_other_nowhere() {
    let mask = mask(&[("A", "abcdefgh"), ("B", "efghijkl"), ("C", "abcdefghijklmnop")]);
    assert_eq!(mask.text("<abcdefghijkl>".into()), "<[secret A]>");
    assert_eq!(mask.text("<abcdefghijklmnop>".into()), "<[secret A]>");
    assert_eq!(mask.text("efghijkl abcdefgh".into()), "[secret B] [secret A]");
    let keyed = mask.value(json!({"abcdefgh": 1, "x": {"efghijkl": "abcdefgh"}}));
    assert_eq!(keyed, json!({"[secret A]": 1, "x": {"[secret B]": "[secret A]"}}));
}

#[test]
fn a_long_text_of_almost_the_value_takes_no_longer() {
    let mask = mask(&[("K", &format!("{}b", "a".repeat(VALUE_BYTES_MAX - 1)))]);
    let text = "a".repeat(1024 * 1024);
    assert_eq!(mask.text(text.clone()), text);
}

#[test]
fn values_stand_where_the_template_has_them_and_the_mask_knows_them() {
    let all = |_: &str| opcode_engine::expr::Visibility::Visible;
    let env = opcode_engine::expr::Env { step: &all, in_loop: false, has_data: false };
    let source = json!({"a": "Bearer ${{ secrets.T }}", "b": "${{secrets.T}}"});
    let template = Template::compile(&source, &env, "").unwrap();
    let values = BTreeMap::from([("T".to_owned(), text("token-token"))]);
    let resolved = Resolved { values };
    let mut rendered = source.clone();
    rendered["a"] = json!("Bearer ${{secrets.T}}");
    template
        .render_secrets(&mut rendered, &mut |key: &str| Ok::<_, ()>(resolved.value(key).to_owned()))
        .unwrap();
    assert_eq!(rendered, json!({"a": "Bearer token-token", "b": "token-token"}));
    assert_eq!(resolved.mask().value(rendered), json!({"a": "Bearer [secret T]", "b": "[secret T]"}));
}

/// Some ways in which another program writes a text down.
fn encodings(text: &str) -> Vec<String> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let percent: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let ascii: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    vec![
        text.to_owned(),
        STANDARD.encode(text),
        URL_SAFE_NO_PAD.encode(text),
        hex::encode(text),
        percent,
        ascii,
        json!(text).to_string(),
        json!(json!(text).to_string()).to_string(),
    ]
}

proptest! {
    #[test]
    fn no_encoding_of_a_text_around_a_value_shows_it(
        before in "[ -~é]{0,12}", value in "[!-~]{6,24}", after in "[ -~é]{0,12}",
    ) {
        let mask = mask(&[("K", &value)]);
        let plain = format!("{before}{value}{after}");
        for (form, encoded) in encodings(&plain).into_iter().enumerate() {
            let masked = mask.text(encoded.clone());
            prop_assert!(masked.contains("[secret K]"), "{form}: {encoded} is {masked}");
        }
    }

    #[test]
    fn what_holds_no_value_stays_as_it_is(text in "[a-e%+\\\\u0-9é]{0,40}") {
        let mask = mask(&[("K", "zzzzzzzz yyyyyyyy")]);
        prop_assert_eq!(mask.text(text.clone()), text);
    }
}
