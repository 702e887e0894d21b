//! File systems of a test's own, over the folder of a scene's data.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::skipped;

/// A file system over a folder; gone when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Puts a small one of `megabytes` over `folder`, with what is in there; none where we may not.
    pub(crate) fn small(folder: &Path, megabytes: u32) -> Option<Self> {
        let size = format!("size={megabytes}m,mode=700");
        Self::over(folder, &["-t", "tmpfs", "-o", &size, "postrider-test"])
    }

    /// Puts one over `folder` that can fail ([`Disk::fail`]), with what is in there.
    pub(crate) fn failing(folder: &Path) -> Option<Self> {
        let image = folder.with_extension("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            skipped("no file system can be made here (mkfs.ext4 is needed)");
            return None;
        }
        Self::over(folder, &["-o", "loop", image.to_str().unwrap()])
    }

    fn over(folder: &Path, mount: &[&str]) -> Option<Self> {
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside).unwrap();
        fs::create_dir(folder).unwrap();
        let mounted = Command::new("mount").args(mount).arg(folder).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            skipped("no file system can be mounted here (root is needed)");
            return None;
        }
        let disk = Self(folder.to_owned());
        for folder in [folder, &aside] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        copy_files(&aside, folder);
        // What a test began with is not to be lost with what the daemon writes.
        let _ = Command::new("sync").arg("-f").arg(folder).status();
        Some(disk)
    }

    /// Fills it up to the last byte.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }

    /// What the kernel does when it cannot trust a disk any more: from now on nothing can be written,
    /// whoever has files open. False where that cannot be asked for.
    pub(crate) fn fail(&self) -> bool {
        let failed = Command::new("mount").args(["-o", "remount,abort"]).arg(&self.0).output();
        let failed = failed.is_ok_and(|failed| failed.status.success());
        failed && fs::File::create(self.0.join("probe")).is_err()
    }

    /// Takes one that failed away and mounts it again: what was not written out by then is lost. False
    /// while somebody has a file open on it, or has it mounted too, in another namespace.
    pub(crate) fn mount_anew(&self) -> bool {
        let _ = Command::new("umount").arg(&self.0).output();
        let image = self.0.with_extension("image");
        let attached = Command::new("losetup").arg("-j").arg(&image).output().unwrap();
        if !attached.stdout.is_empty() {
            return false;
        }
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.0).output();
        let mounted = mounted.unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        true
    }

    /// Takes what can be read off it to a folder in its place, as after the purchase of another disk.
    pub(crate) fn replace(self) {
        let (folder, copy) = (self.0.clone(), self.0.with_extension("copy"));
        fs::create_dir(&copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
        copy_files(&folder, &copy);
        drop(self);
        fs::remove_dir(&folder).unwrap();
        fs::rename(copy, folder).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}
