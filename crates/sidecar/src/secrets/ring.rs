//! The keys, and what is sealed under them.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, Zeroizing};

use super::file::read_private;

/// How a sealed value begins; the database knows it by that.
const FORM: &str = "mhs1";
/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// The keys of a file, the one that seals first.
#[derive(Default)]
pub struct Ring(Vec<(String, LessSafeKey)>);

impl Ring {
    /// Reads a file of lines `id:base64 of 32 random bytes`; empty lines and those that begin with `#` are left out.
    ///
    /// # Errors
    /// When it cannot be read, is open to others, or has another line; the text quotes nothing of it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = read_private(path)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(key).collect::<Option<Vec<_>>>();
        match keys {
            Some(keys) if !keys.is_empty() => Ok(Self(keys)),
            Some(_) => bail!("{shown} has no key; meshhook-sidecar secret key makes one"),
            None => bail!("{shown} has a line that is not \"id:base64 of {KEY_BYTES} bytes\""),
        }
    }

    /// A line for such a file, with a fresh key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn fresh_line(id: &str) -> anyhow::Result<Zeroizing<String>> {
        ensure!(is_key_id(id), "a key's id is 1 to 63 letters, digits, hyphens and underscores");
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        fill_random(&mut bytes[..])?;
        Ok(Zeroizing::new(format!("{id}:{}", STANDARD.encode(&bytes[..]))))
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Seals a value for a project's secret of that name.
    ///
    /// # Errors
    /// Without a key.
    pub fn seal(&self, project: &str, name: &str, value: &str) -> anyhow::Result<String> {
        let (id, key) = self.0.first().context("no key to seal with: --secret-keys names the file")?;
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce)?;
        let mut body = Zeroizing::new(value.as_bytes().to_vec());
        let sealed = key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place(project, name)),
                &mut *body,
            )
            .is_ok();
        ensure!(sealed, "the value is too large to be sealed");
        Ok(format!("{FORM}:{id}:{}", STANDARD.encode([&nonce[..], &body[..]].concat())))
    }

    /// Opens a sealed value.
    ///
    /// # Errors
    /// When its key is not there, or it was sealed for another project or name, or is damaged. The text quotes nothing
    /// of it but the key's id.
    pub fn open(&self, project: &str, name: &str, sealed: &str) -> Result<Zeroizing<String>, String> {
        let damaged = || "it is no sealed value".to_owned();
        let mut parts = sealed.splitn(3, ':');
        let (Some(FORM), Some(id), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(damaged());
        };
        let Some((_, key)) = self.0.iter().find(|(known, _)| known == id) else {
            return Err(format!("this sidecar has no key {id:?}: --secret-keys names the file"));
        };
        let bytes = STANDARD.decode(body).map_err(|_| damaged())?;
        let (nonce, body) = bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(damaged)?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.open_in_place(nonce, Aad::from(place(project, name)), &mut body);
        let opened =
            opened.map_err(|_| "it was sealed for another project or name, or is damaged".to_owned())?;
        std::str::from_utf8(opened).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| damaged())
    }
}

/// The ring in use, which may be replaced while others hold it.
#[derive(Clone, Default)]
pub struct Keys(Arc<RwLock<Arc<Ring>>>);

impl Keys {
    /// Those of a file; none without one.
    ///
    /// # Errors
    /// As [`Ring::read`].
    pub fn of(path: Option<&Path>) -> anyhow::Result<Self> {
        let keys = Self::default();
        keys.read_again(path)?;
        Ok(keys)
    }

    /// Reads the file anew; what was read before stays if that fails.
    ///
    /// # Errors
    /// As [`Ring::read`].
    pub fn read_again(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let ring = path.map_or_else(|| Ok(Ring::default()), Ring::read)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        Ok(())
    }

    /// The ring as it is now.
    pub fn ring(&self) -> Arc<Ring> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is authenticated along. Neither part can hold what separates them.
fn place(project: &str, name: &str) -> Vec<u8> {
    format!("meshhook secret\0{project}\0{name}").into_bytes()
}

fn key(line: &str) -> Option<(String, LessSafeKey)> {
    let (id, text) = line.split_once(':')?;
    let mut bytes = STANDARD.decode(text.trim()).ok()?;
    let key = UnboundKey::new(&AES_256_GCM, &bytes).ok();
    bytes.zeroize();
    is_key_id(id).then_some(())?;
    Some((id.to_owned(), LessSafeKey::new(key?)))
}

fn is_key_id(id: &str) -> bool {
    (1..=63).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn fill_random(bytes: &mut [u8]) -> anyhow::Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| anyhow::anyhow!("the system has no random numbers"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    pub(crate) fn ring(ids: &[&str]) -> Ring {
        let line = |id: &&str| key(&Ring::fresh_line(id).unwrap()).unwrap();
        Ring(ids.iter().map(line).collect())
    }

    #[test]
    fn what_is_sealed_opens_where_it_belongs() {
        let keys = ring(&["k2", "k1"]);
        let sealed = keys.seal("acme", "api", "s3cret").unwrap();
        assert!(sealed.starts_with("mhs1:k2:") && !sealed.contains("s3cret"));
        assert_ne!(sealed, keys.seal("acme", "api", "s3cret").unwrap());
        assert_eq!(&**keys.open("acme", "api", &sealed).unwrap(), "s3cret");
        for (project, name) in [("other", "api"), ("acme", "other"), ("acm", "eapi")] {
            assert!(keys.open(project, name, &sealed).unwrap_err().contains("another project"));
        }
        let mut body = sealed.clone().into_bytes();
        let last = body.len() - 5;
        body[last] ^= 1;
        assert!(keys.open("acme", "api", &String::from_utf8(body).unwrap()).is_err());
        assert!(keys.open("acme", "api", "s3cret").unwrap_err().contains("no sealed value"));
        assert!(ring(&["k1"]).open("acme", "api", &sealed).unwrap_err().contains("no key \"k2\""));
        assert!(Ring::default().seal("acme", "api", "s3cret").is_err());
    }

    #[test]
    fn a_new_key_seals_and_an_old_one_opens() {
        let old = ring(&["old"]);
        let sealed = old.seal("p", "n", "value").unwrap();
        let mut both = ring(&["new"]);
        both.0.extend(old.0);
        assert_eq!(&**both.open("p", "n", &sealed).unwrap(), "value");
        assert!(both.seal("p", "n", "value").unwrap().starts_with("mhs1:new:"));
    }

    #[test]
    fn a_key_file_is_for_its_owner_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        let read = || Ring::read(file.path()).map(|ring| ring.len()).map_err(|error| error.to_string());
        write(&format!("# keys\n\n{}\n", &**Ring::fresh_line("a").unwrap()));
        assert_eq!(read(), Ok(1));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read().unwrap_err().contains("open to others"));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "hunter2", "a:hunter2", "a b:AAAA"] {
            write(bad);
            assert!(!read().unwrap_err().contains("hunter2"), "{bad:?}");
        }
    }
}
