//! `opcode cluster certs`: the cluster's CA, and a certificate for each node.
//!
//! A node's folder holds all it needs and is copied to its host whole; the CA's key stays where it
//! was made. The CA's name is made of its key, so that the key alone is enough to sign for nodes
//! that come later, and no other CA's key passes for it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use chrono::{Datelike, Days, NaiveDate, Utc};
use clap::Args;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::ServerName;
use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use crate::secret_file;
use crate::transport::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, Mutual};

/// The CA's key, which no node needs.
const CA_KEY_FILE: &str = "ca.key";
/// How long a CA is valid.
const CA_DAYS: u64 = 3_650;
/// How long a certificate is valid when nothing is said, and at most.
const NODE_DAYS: u64 = 730;
/// Clocks may be apart by so much.
const SKEW_DAYS: u64 = 1;

/// Flags of `opcode cluster certs`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode cluster certs --out certs --node 10.0.0.1 --node 10.0.0.2 --node 10.0.0.3
  opcode cluster certs --out certs --node node4.example,10.0.0.4")]
pub(crate) struct Certs {
    /// Folder for the CA and a folder for each node; one that has a CA already goes on with it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A node's name or address, as others reach it, or several with commas; repeat for more nodes
    #[arg(long = "node", value_name = "NAME|ADDR")]
    nodes: Vec<String>,
    /// Folder of the CA, when it is elsewhere
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
    /// How long a node's certificate is valid
    #[arg(long, default_value_t = NODE_DAYS, value_parser = clap::value_parser!(u64).range(1..=CA_DAYS))]
    days: u64,
}

pub(crate) fn run(args: &Certs, output: &Output) -> Result<(), Failure> {
    let made = make(args).map_err(|error| Failure::local(format!("{error:#}")))?;
    let folders: Vec<String> = made.iter().map(|folder| folder.display().to_string()).collect();
    let document = json!({"ca": args.ca.as_ref().unwrap_or(&args.out).join(CA_FILE), "nodes": folders});
    output.document(&document, |_| next_steps(args, &folders));
    Ok(())
}

fn next_steps(args: &Certs, folders: &[String]) -> String {
    let ca_dir = args.ca.as_ref().unwrap_or(&args.out);
    let mut lines = vec![format!(
        "The cluster's CA is in {}. Keep {CA_KEY_FILE} off the nodes: whoever has it can join.",
        ca_dir.display()
    )];
    if folders.is_empty() {
        lines.push("Make a node's certificate with --node NAME|ADDR.".into());
    } else {
        lines.push(format!("Valid for {} days:", args.days));
        lines.extend(folders.iter().map(|folder| format!("  {folder}")));
        lines.push(
            "Copy each folder to its node, for example to /etc/opcode/tls, readable by its user alone,\n\
             and start the node with --peer-tls-dir /etc/opcode/tls (or peer_tls_dir in opcode.toml)."
                .into(),
        );
    }
    lines.join("\n")
}

/// Makes what is asked for; nothing that is there is written over.
fn make(args: &Certs) -> Result<Vec<PathBuf>> {
    let nodes = args.nodes.iter().map(|node| names_of(node)).collect::<Result<Vec<_>>>()?;
    for names in &nodes {
        let folder = args.out.join(&names[0]);
        if folder.exists() {
            bail!("{}: is there already; move it away to make another", folder.display());
        }
    }
    make_folder(&args.out)?;
    let ca_dir = args.ca.as_ref().unwrap_or(&args.out);
    let (ca_pem, issuer) = match ca_dir.join(CA_KEY_FILE).exists() {
        true => read_ca(ca_dir)?,
        false if args.ca.is_some() => bail!("{}: there is no {CA_KEY_FILE} in it", ca_dir.display()),
        false => make_ca(ca_dir)?,
    };
    nodes.iter().map(|names| make_node(&args.out, names, args.days, &ca_pem, &issuer)).collect()
}

/// The names in one `--node`.
fn names_of(node: &str) -> Result<Vec<String>> {
    let names: Vec<String> = node.split(',').map(|name| name.trim().to_owned()).collect();
    for name in &names {
        if ServerName::try_from(name.as_str()).is_err() || name.contains(['/', '*']) {
            bail!("--node {name}: neither the name of a host nor an IP address (without a port)");
        }
    }
    Ok(names)
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))
}

fn ca_params(key: &KeyPair) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let id = params.key_identifier(key);
    let id: String = id.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("OPCODE cluster CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_DAYS)?;
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, days: u64) -> Result<()> {
    let today = Utc::now().date_naive();
    let at = |date: Option<NaiveDate>| -> Result<_> {
        let date = date.context("this machine's clock is out of all bounds")?;
        Ok(date_time_ymd(date.year(), u8::try_from(date.month())?, u8::try_from(date.day())?))
    };
    params.not_before = at(today.checked_sub_days(Days::new(SKEW_DAYS)))?;
    params.not_after = at(today.checked_add_days(Days::new(days)))?;
    Ok(())
}

fn make_ca(folder: &Path) -> Result<(String, Issuer<'static, KeyPair>)> {
    let key = KeyPair::generate().context("no key can be made")?;
    let params = ca_params(&key)?;
    let pem = params.self_signed(&key).context("no CA can be made")?.pem();
    // Without its key a CA is of no use: the key comes first, and is never written over.
    secret_file::create(&folder.join(CA_KEY_FILE), key.serialize_pem().as_bytes())?;
    write(&folder.join(CA_FILE), &pem)?;
    Ok((pem, Issuer::new(params, key)))
}

fn read_ca(folder: &Path) -> Result<(String, Issuer<'static, KeyPair>)> {
    let file = folder.join(CA_KEY_FILE);
    let key = KeyPair::from_pem(&secret_file::read(&file)?)
        .with_context(|| format!("{}: no private key", file.display()))?;
    let file = folder.join(CA_FILE);
    let pem =
        std::fs::read_to_string(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let params = ca_params(&key)?;
    Ok((pem, Issuer::new(params, key)))
}

/// Makes a node's folder, whole or not at all.
fn make_node(
    out: &Path,
    names: &[String],
    days: u64,
    ca_pem: &str,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<PathBuf> {
    let folder = out.join(&names[0]);
    let unfinished = out.join(format!(".{}.new", names[0]));
    // One that was begun before and not ended is of no use.
    let _ = std::fs::remove_dir_all(&unfinished);
    make_folder(&unfinished)?;
    let (certificate, key) = node_certificate(names, days, issuer)?;
    write(&unfinished.join(CA_FILE), ca_pem)?;
    write(&unfinished.join(CERTIFICATE_FILE), &certificate.pem())?;
    secret_file::create(&unfinished.join(KEY_FILE), key.serialize_pem().as_bytes())?;
    for name in names {
        let checked = Mutual::load(&unfinished, &format!("{name}:0"));
        if let Err(error) = checked {
            std::fs::remove_dir_all(&unfinished)?;
            return Err(
                error.context("the CA was not made by `opcode cluster certs`, or is not valid any more")
            );
        }
    }
    std::fs::rename(&unfinished, &folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    Ok(folder)
}

fn node_certificate(
    names: &[String],
    days: u64,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<(Certificate, KeyPair)> {
    let key = KeyPair::generate().context("no key can be made")?;
    let mut params = CertificateParams::new(names.to_vec()).context("a name cannot be in a certificate")?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names[0].clone());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, days)?;
    let certificate = params.signed_by(&key, issuer).context("the certificate cannot be signed")?;
    Ok((certificate, key))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("{}: cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn certs(out: &Path, nodes: &[&str], ca: Option<&Path>) -> Result<Vec<PathBuf>> {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        make(&Certs { out: out.into(), nodes, ca: ca.map(Path::to_path_buf), days: NODE_DAYS })
    }

    #[test]
    fn a_ca_signs_now_and_later_and_keys_are_secret() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("certs");
        certs(&out, &["127.0.0.1,node1.example", "::1"], None).unwrap();
        let later = certs(&out, &["10.0.0.4"], None).unwrap();
        assert_eq!(later, [out.join("10.0.0.4")]);
        let elsewhere = home.path().join("elsewhere");
        certs(&elsewhere, &["10.0.0.5"], Some(&out)).unwrap();
        for (folder, address) in [
            (out.join("127.0.0.1"), "127.0.0.1:1"),
            (out.join("127.0.0.1"), "node1.example:1"),
            (out.join("::1"), "[::1]:1"),
            (out.join("10.0.0.4"), "10.0.0.4:1"),
            (elsewhere.join("10.0.0.5"), "10.0.0.5:1"),
        ] {
            Mutual::load(&folder, address).unwrap();
            let mode = std::fs::metadata(folder.join(KEY_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(!folder.join(CA_KEY_FILE).exists(), "the CA's key stays where it is");
        }
        let wrong = Mutual::load(&out.join("10.0.0.4"), "10.0.0.9:1").err().unwrap();
        assert!(format!("{wrong:#}").contains("others would refuse it"), "{wrong:#}");
    }

    #[test]
    fn nothing_is_written_over_and_no_other_ca_passes() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (home.path().join("one"), home.path().join("two"));
        certs(&one, &["10.0.0.1"], None).unwrap();
        let again = certs(&one, &["10.0.0.2", "10.0.0.1"], None).unwrap_err();
        assert!(again.to_string().contains("is there already"), "{again}");
        assert!(!one.join("10.0.0.2").exists(), "all or nothing");
        certs(&two, &[], None).unwrap();
        std::fs::copy(two.join(CA_FILE), one.join(CA_FILE)).unwrap();
        let mixed = certs(&one, &["10.0.0.3"], None).unwrap_err();
        assert!(format!("{mixed:#}").contains("CA"), "{mixed:#}");
        assert!(!one.join("10.0.0.3").exists());
        for name in ["10.0.0.1:5100", "../x", "a b", "", "*.example"] {
            certs(&two, &[name], None).unwrap_err();
        }
    }
}
