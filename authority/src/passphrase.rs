//! Where a passphrase comes from: a file, an open descriptor, or the terminal; never arguments or environment, which
//! other processes can read.
//!
//! Law: a passphrase is one line, its line end not counted; a file that others can read is refused; the terminal does
//! not echo and is as it was afterwards, after Ctrl-C too; no copy outlives the call unwiped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cinnabar_abe::SecretBytes;
use cinnabar_abe::limits::PASSPHRASE_BYTES_MAX;
use cinnabar_abe::seal::check_passphrase;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Highest descriptor that is taken: what a shell or a supervisor hands over is far below.
pub const DESCRIPTOR_MAX: u32 = 1023;
/// Permission bits that let others than the owner in.
const OTHERS: u32 = 0o077;
const TERMINAL: &str = "/dev/tty";

/// Where to take a passphrase from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file (or named pipe) that only its owner can read; it belongs to us or to root.
    File(PathBuf),
    /// A descriptor that was open when the process started: 0, or 3 to [`DESCRIPTOR_MAX`].
    Descriptor(u32),
    /// The terminal, with a question.
    Prompt,
}

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// A file or descriptor cannot be read.
    #[error("passphrase from {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("passphrase from {}: mode {mode:04o}, owner {owner}: others can read it; make it yours and mode 0600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner's number.
        owner: u32,
    },
    /// Not 0 or 3 to [`DESCRIPTOR_MAX`].
    #[error("passphrase from descriptor {0}: expected is 0, or 3 to 1023")]
    Descriptor(u32),
    /// More than one line: probably another file than was meant.
    #[error("passphrase: more than one line")]
    Lines,
    /// There is no terminal to ask at, or it fails.
    #[error("passphrase from the terminal: {0}; a file or a descriptor is the other way")]
    Terminal(io::Error),
    /// Ctrl-C, or the end of input before the line's.
    #[error("passphrase: not given")]
    Cancelled,
    /// The two answers differ.
    #[error("passphrase: the second is not the first")]
    Differs,
    /// Too short or too long.
    #[error(transparent)]
    Length(cinnabar_abe::Error),
}

impl Source {
    /// Takes a passphrase that opens something; `what` stands in the question, such as `record signing key`. Blocks.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn read(&self, what: &str) -> Result<SecretBytes, PassphraseError> {
        let passphrase = match self {
            Self::File(path) => read_file(path)?,
            Self::Descriptor(number) => read_descriptor(*number)?,
            Self::Prompt => prompt(&terminal()?, &format!("Passphrase for {what}: "))?,
        };
        checked(passphrase)
    }

    /// Takes a passphrase that will close something: the terminal asks twice.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn read_new(&self, what: &str) -> Result<SecretBytes, PassphraseError> {
        if *self != Self::Prompt {
            return self.read(what);
        }
        read_new_at(&terminal()?, what)
    }
}

fn read_new_at(terminal: &File, what: &str) -> Result<SecretBytes, PassphraseError> {
    // Refused before it is asked for again.
    let first = checked(prompt(terminal, &format!("New passphrase for {what}: "))?)?;
    let second = prompt(terminal, "The same again: ")?;
    if first == second { Ok(first) } else { Err(PassphraseError::Differs) }
}

fn checked(passphrase: SecretBytes) -> Result<SecretBytes, PassphraseError> {
    check_passphrase(&passphrase).map_err(PassphraseError::Length)?;
    Ok(passphrase)
}

// === File and descriptor ===

fn read_file(path: &Path) -> Result<SecretBytes, PassphraseError> {
    let failed = |source| PassphraseError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, so that no other one can be put in its place.
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & OTHERS != 0 || !(owner == rustix::process::geteuid().as_raw() || owner == 0) {
        return Err(PassphraseError::Exposed { path: path.to_owned(), mode, owner });
    }
    one_line(file, path)
}

fn read_descriptor(number: u32) -> Result<SecretBytes, PassphraseError> {
    if matches!(number, 1 | 2) || number > DESCRIPTOR_MAX {
        return Err(PassphraseError::Descriptor(number));
    }
    let path = PathBuf::from(format!("/proc/self/fd/{number}"));
    let file = File::open(&path).map_err(|source| PassphraseError::Read { path: path.clone(), source })?;
    one_line(file, &path)
}

fn one_line(file: File, path: &Path) -> Result<SecretBytes, PassphraseError> {
    // Room for a line end and one byte more, so that too long shows; reserved, so that no part stays behind on growing.
    let most = PASSPHRASE_BYTES_MAX + 3;
    let mut bytes = Zeroizing::new(vec![0; most]);
    let mut length = 0;
    while length < most {
        match (&file).read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(PassphraseError::Read { path: path.to_owned(), source }),
        }
    }
    let line = &bytes[..length];
    let line = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
    if line.contains(&b'\n') {
        return Err(PassphraseError::Lines);
    }
    Ok(SecretBytes::new(line.to_vec()))
}

// === Terminal ===

fn terminal() -> Result<File, PassphraseError> {
    OpenOptions::new().read(true).write(true).open(TERMINAL).map_err(PassphraseError::Terminal)
}

/// Gives the terminal back as it was.
struct Restore<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Asks and reads one line without echo. Signal keys come as bytes, so that Ctrl-C cannot leave the terminal silent.
fn prompt(terminal: &File, question: &str) -> Result<SecretBytes, PassphraseError> {
    let failed = |errno: rustix::io::Errno| PassphraseError::Terminal(errno.into());
    let before = tcgetattr(terminal).map_err(failed)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VMIN] = 1;
    silent.special_codes[SpecialCodeIndex::VTIME] = 0;
    let restore = Restore { terminal, before };
    // What was typed ahead was typed with echo: not for us.
    tcsetattr(terminal, OptionalActions::Flush, &silent).map_err(failed)?;
    let mut terminal = restore.terminal;
    terminal.write_all(question.as_bytes()).map_err(PassphraseError::Terminal)?;
    let line = read_keys(terminal, &restore.before);
    terminal.write_all(b"\n").map_err(PassphraseError::Terminal)?;
    line
}

fn read_keys(mut terminal: &File, before: &Termios) -> Result<SecretBytes, PassphraseError> {
    let code = |index| before.special_codes[index];
    let mut line = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 1));
    let mut key = Zeroizing::new([0]);
    loop {
        match terminal.read(&mut *key) {
            Ok(0) => return Err(PassphraseError::Cancelled),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(PassphraseError::Terminal(error)),
        }
        match key[0] {
            b'\n' | b'\r' => return Ok(SecretBytes::new(std::mem::take(&mut *line))),
            key if key == code(SpecialCodeIndex::VINTR) || key == code(SpecialCodeIndex::VQUIT) => {
                return Err(PassphraseError::Cancelled);
            }
            key if key == code(SpecialCodeIndex::VEOF) => return Err(PassphraseError::Cancelled),
            key if key == code(SpecialCodeIndex::VERASE) => erase_character(&mut line),
            key if key == code(SpecialCodeIndex::VKILL) => line.clear(),
            // Past the bound one byte more is kept, so that too long shows.
            key if line.len() <= PASSPHRASE_BYTES_MAX => line.push(key),
            _ => {}
        }
    }
}

/// Takes off the last character: in UTF-8 its first byte and those that continue it.
fn erase_character(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

    use super::*;

    fn file(bytes: &[u8], mode: u32) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, Source::File(path))
    }

    #[test]
    fn a_file_gives_its_one_line_without_the_end() {
        for bytes in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            let (_folder, source) = file(bytes.as_bytes(), 0o600);
            assert_eq!(source.read("test").unwrap().expose(), b"correct horse");
            assert_eq!(source.read_new("test").unwrap().expose(), b"correct horse");
        }
        let (_folder, source) = file(b" inner and outer blanks \n", 0o400);
        assert_eq!(source.read("test").unwrap().expose(), b" inner and outer blanks ");
    }

    #[test]
    fn what_is_no_passphrase_is_refused() {
        let refused = |bytes: &[u8]| {
            let (_folder, source) = file(bytes, 0o600);
            source.read("test").unwrap_err()
        };
        assert!(matches!(refused(b"correct horse\nbattery staple\n"), PassphraseError::Lines));
        assert!(matches!(refused(b"correct horse\n\n"), PassphraseError::Lines));
        for bytes in [&b""[..], b"\n", b"too short\n", &[b'x'; PASSPHRASE_BYTES_MAX + 1], &[b'x'; 9000]] {
            assert!(matches!(refused(bytes), PassphraseError::Length(_)), "{} bytes", bytes.len());
        }
        let (_folder, source) = file(&[&[b'x'; PASSPHRASE_BYTES_MAX][..], b"\r\n"].concat(), 0o600);
        assert_eq!(source.read("test").unwrap().len(), PASSPHRASE_BYTES_MAX);
        let missing = Source::File("/nowhere/passphrase".into()).read("test").unwrap_err();
        assert!(matches!(missing, PassphraseError::Read { .. }));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o660, 0o644, 0o610] {
            let (_folder, source) = file(b"correct horse\n", mode);
            let error = source.read("test").unwrap_err();
            assert!(matches!(error, PassphraseError::Exposed { mode: found, .. } if found == mode), "{error}");
        }
    }

    #[test]
    fn a_descriptor_gives_what_is_written_to_it() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let number = u32::try_from(reader.as_raw_fd()).unwrap();
        writer.write_all(b"correct horse\n").unwrap();
        drop(writer);
        assert_eq!(Source::Descriptor(number).read("test").unwrap().expose(), b"correct horse");
        for number in [1, 2, DESCRIPTOR_MAX + 1, u32::MAX] {
            assert!(matches!(Source::Descriptor(number).read("test"), Err(PassphraseError::Descriptor(_))));
        }
        assert!(matches!(Source::Descriptor(DESCRIPTOR_MAX).read("test"), Err(PassphraseError::Read { .. })));
    }

    /// Types each answer after its question came; returns what the other end made of it and all that was shown.
    fn at_a_terminal<T: Send>(answers: &[(&str, &[u8])], ask: impl FnOnce(&File) -> T + Send) -> (T, String) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = File::from(ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
        let mut master = File::from(master);
        let before = tcgetattr(&slave).unwrap();
        assert!(before.local_modes.contains(LocalModes::ECHO));
        let mut shown = Vec::new();
        let result = std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&slave));
            for (question, answer) in answers {
                while !String::from_utf8_lossy(&shown).contains(question) {
                    let mut bytes = [0; 256];
                    let length = master.read(&mut bytes).unwrap();
                    shown.extend_from_slice(&bytes[..length]);
                }
                master.write_all(answer).unwrap();
            }
            asking.join().unwrap()
        });
        assert_eq!(tcgetattr(&slave).unwrap().local_modes, before.local_modes, "the terminal is as it was");
        drop(slave);
        // Reading from the master fails once nobody has the other end.
        let mut bytes = [0; 256];
        while let Ok(length @ 1..) = master.read(&mut bytes) {
            shown.extend_from_slice(&bytes[..length]);
        }
        (result, String::from_utf8(shown).unwrap())
    }

    #[test]
    fn the_terminal_asks_and_does_not_echo() {
        let (line, shown) = at_a_terminal(&[("for test:", b"correct hoss\x7f\x7frse \xc3\xa9\x7f\n")], |terminal| {
            prompt(terminal, "Passphrase for test: ")
        });
        assert_eq!(line.unwrap().expose(), b"correct horse ");
        assert_eq!(shown, "Passphrase for test: \r\n");
    }

    #[test]
    fn a_new_passphrase_is_typed_twice_alike() {
        let ask = |terminal: &File| read_new_at(terminal, "test");
        let (line, shown) = at_a_terminal(&[("for test:", b"correct horse\n"), ("again:", b"correct horse\n")], ask);
        assert_eq!(line.unwrap().expose(), b"correct horse");
        assert!(!shown.contains("horse"), "{shown}");
        let (line, _) = at_a_terminal(&[("for test:", b"correct horse\n"), ("again:", b"correct house\n")], ask);
        assert!(matches!(line, Err(PassphraseError::Differs)));
        let (line, _) = at_a_terminal(&[("for test:", b"short\n")], ask);
        assert!(matches!(line, Err(PassphraseError::Length(_))));
    }

    #[test]
    fn control_c_and_the_end_of_input_leave_the_terminal_as_it_was() {
        for answer in [&b"correct\x03"[..], b"correct\x04", b"\x1c"] {
            let (line, shown) = at_a_terminal(&[("test: ", answer)], |terminal| prompt(terminal, "test: "));
            assert!(matches!(line, Err(PassphraseError::Cancelled)));
            assert_eq!(shown, "test: \r\n");
        }
        let (line, _) =
            at_a_terminal(&[("test: ", b"wrong\x15correct horse\r")], |terminal| prompt(terminal, "test: "));
        assert_eq!(line.unwrap().expose(), b"correct horse");
    }

    #[test]
    fn what_is_no_terminal_is_an_error() {
        let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        assert!(matches!(prompt(&nowhere, "test: "), Err(PassphraseError::Terminal(_))));
    }
}
