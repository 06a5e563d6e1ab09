//! `crypto.*`: hashes, HMACs, ids, encodings. Pure; nothing here encrypts or keeps keys.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use md5::Md5;
use opcode_engine::{Code, Fault};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::params::Params;

pub(super) fn hash(params: Params<'_>) -> Result<Value, Fault> {
    let data = params.require_text("data")?;
    let data = data.as_bytes();
    let algorithm = params.str("algorithm")?.unwrap_or("sha256");
    let hash = match algorithm {
        "md5" => hex::encode(Md5::digest(data)),
        "sha1" => hex::encode(Sha1::digest(data)),
        "sha256" => hex::encode(Sha256::digest(data)),
        "sha384" => hex::encode(Sha384::digest(data)),
        "sha512" => hex::encode(Sha512::digest(data)),
        _ => return Err(params.invalid("algorithm", "must be md5, sha1, sha256, sha384 or sha512")),
    };
    Ok(json!({"hash": hash, "algorithm": algorithm}))
}

pub(super) fn hmac(params: Params<'_>) -> Result<Value, Fault> {
    let data = params.require_text("data")?;
    let key = params.require_text("key")?;
    let (data, key) = (data.as_bytes(), key.as_bytes());
    let algorithm = params.str("algorithm")?.unwrap_or("sha256");
    let hmac = match algorithm {
        "md5" => mac::<Hmac<Md5>>(key, data),
        "sha1" => mac::<Hmac<Sha1>>(key, data),
        "sha256" => mac::<Hmac<Sha256>>(key, data),
        "sha384" => mac::<Hmac<Sha384>>(key, data),
        "sha512" => mac::<Hmac<Sha512>>(key, data),
        _ => return Err(params.invalid("algorithm", "must be md5, sha1, sha256, sha384 or sha512")),
    };
    Ok(json!({"hmac": hmac, "algorithm": algorithm}))
}

fn mac<M: Mac + hmac::digest::KeyInit>(key: &[u8], data: &[u8]) -> String {
    let mut mac = <M as Mac>::new_from_slice(key).expect("an HMAC takes keys of any length");
    mac.update(data);
    hex::encode(mac.finalize().into_bytes())
}

pub(super) fn uuid(params: Params<'_>) -> Result<Value, Fault> {
    let uuid = match params.u64("version", 4)? {
        4 => uuid::Uuid::new_v4(),
        7 => uuid::Uuid::now_v7(),
        _ => return Err(params.invalid("version", "must be 4 or 7")),
    };
    Ok(json!({"uuid": uuid.to_string()}))
}

pub(super) fn encode(params: Params<'_>) -> Result<Value, Fault> {
    let data = params.require_text("data")?;
    let data = data.as_bytes();
    let encoding = params.str("encoding")?.unwrap_or("base64");
    let encoded = match encoding {
        "base64" => STANDARD.encode(data),
        "base64url" => URL_SAFE_NO_PAD.encode(data),
        "hex" => hex::encode(data),
        "url" => percent_encode(data),
        _ => return Err(params.invalid("encoding", "must be base64, base64url, hex or url")),
    };
    Ok(json!({"encoded": encoded, "encoding": encoding}))
}

pub(super) fn decode(params: Params<'_>) -> Result<Value, Fault> {
    let data = params.require_text("data")?;
    let encoding = params.str("encoding")?.unwrap_or("base64");
    let bytes = match encoding {
        "base64" => STANDARD.decode(data.trim()).ok(),
        "base64url" => URL_SAFE_NO_PAD.decode(data.trim().trim_end_matches('=')).ok(),
        "hex" => hex::decode(data.trim()).ok(),
        "url" => percent_decode(data.as_bytes()),
        _ => return Err(params.invalid("encoding", "must be base64, base64url, hex or url")),
    };
    let bytes = bytes.ok_or_else(|| params.invalid("data", &format!("is not {encoding}")))?;
    match String::from_utf8(bytes) {
        Ok(decoded) => Ok(json!({"decoded": decoded, "encoding": encoding})),
        Err(_) => Err(Fault::new(Code::NonRetryable, "crypto.decode: the decoded bytes are not UTF-8 text")),
    }
}

/// RFC 3986: everything but unreserved characters.
fn percent_encode(data: &[u8]) -> String {
    let mut out = String::with_capacity(data.len());
    for byte in data {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn percent_decode(data: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let mut byte = [0];
            hex::decode_to_slice(tail.get(..2)?, &mut byte).ok()?;
            out.push(byte[0]);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Action = fn(Params<'_>) -> Result<Value, Fault>;

    fn check(action: Action, params: Value, expected: Value) {
        assert_eq!(action(Params::new("crypto", &params)).unwrap(), expected, "{params}");
    }

    #[test]
    fn known_answers() {
        check(
            hash,
            json!({"data": "abc", "algorithm": "md5"}),
            json!({"hash": "900150983cd24fb0d6963f7d28e17f72", "algorithm": "md5"}),
        );
        check(
            hash,
            json!({"data": "abc", "algorithm": "sha1"}),
            json!({"hash": "a9993e364706816aba3e25717850c26c9cd0d89d", "algorithm": "sha1"}),
        );
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check(hash, json!({"data": "abc"}), json!({"hash": abc, "algorithm": "sha256"}));
        // RFC 4231, test case 2.
        let jefe = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        check(
            hmac,
            json!({"key": "Jefe", "data": "what do ya want for nothing?"}),
            json!({"hmac": jefe, "algorithm": "sha256"}),
        );
    }

    #[test]
    fn encodings_round_trip() {
        for encoding in ["base64", "base64url", "hex", "url"] {
            let text = "a?b&c=d/é ~%";
            let encoded = encode(Params::new("e", &json!({"data": text, "encoding": encoding}))).unwrap();
            check(
                decode,
                json!({"data": encoded["encoded"], "encoding": encoding}),
                json!({"decoded": text, "encoding": encoding}),
            );
        }
    }

    #[test]
    fn what_is_not_a_string_is_hashed_as_json() {
        let of_object = hash(Params::new("h", &json!({"data": {"a": 1.50}}))).unwrap();
        let of_text = hash(Params::new("h", &json!({"data": "{\"a\":1.5}"}))).unwrap();
        assert_eq!(of_object, of_text);
    }

    #[test]
    fn bad_params_are_the_callers_fault() {
        for params in
            [json!({}), json!({"data": "x", "algorithm": "rot13"}), json!({"data": "x", "algorithm": 1})]
        {
            let fault = hash(Params::new("crypto.hash", &params)).unwrap_err();
            assert_eq!(fault.code, Code::ValidationError, "{params}");
        }
        for params in [
            json!({"data": "%zz", "encoding": "url"}),
            json!({"data": "%a", "encoding": "url"}),
            json!({"data": "!"}),
        ] {
            let fault = decode(Params::new("crypto.decode", &params)).unwrap_err();
            assert_eq!(fault.code, Code::ValidationError, "{params}");
        }
    }

    #[test]
    fn uuids_have_their_version() {
        for version in [4, 7] {
            let id = uuid(Params::new("u", &json!({"version": version}))).unwrap();
            let id = uuid::Uuid::parse_str(id["uuid"].as_str().unwrap()).unwrap();
            assert_eq!(id.get_version_num(), version);
        }
    }
}
