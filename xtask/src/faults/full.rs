//! The disk full: at each number of free pages from none to enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::scene::{Scene, Stage};
use crate::{cargo, output};

const SIZE_KIB: usize = 256;
/// tmpfs gives out whole pages.
const PAGE_BYTES: usize = 4096;

/// A mounted file system, until it is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // At worst it goes with the namespace or the machine.
        drop(Command::new("umount").arg(&self.0).status());
    }
}

/// Here where this process may mount, otherwise in a namespace of its own.
pub(super) fn run(folder: &Path, skeg: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    if mount(folder).is_ok() {
        return run_mounted(folder, skeg);
    }
    if !cargo::answers("unshare", &["-Urm", "true"]) {
        output::line("disk full: NOT RUN, this needs root, or unshare and user namespaces");
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.arg("-Urm").arg(cargo::binary("xtask")?).args(["faults", "--full"]).arg(skeg);
    cargo::run(&mut command)
}

pub(super) fn run_mounted(folder: &Path, skeg: &Path) -> Result<()> {
    let disk = folder.join("disk");
    for mut scene in super::scenes(&folder.join("scenes"), skeg)? {
        fs::create_dir_all(&disk).with_context(|| format!("making {}", disk.display()))?;
        let _mounted = mount(&disk)?;
        scene.move_store(disk.join("store"));
        fill(&scene, &disk)?;
    }
    Ok(())
}

fn mount(folder: &Path) -> Result<Mounted> {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", &format!("size={SIZE_KIB}k"), "skeg-faults"]).arg(folder);
    let output = command.output().context("cannot start mount")?;
    ensure!(output.status.success(), "cannot mount: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Mounted(folder.to_owned()))
}

/// Lets a victim work with no page free, with one, and so on until there are enough.
fn fill(scene: &Scene, disk: &Path) -> Result<()> {
    let ballast = disk.join("ballast");
    let (mut num_failed, mut num_inside) = (0_usize, 0_usize);
    for free in 0..SIZE_KIB * 1024 / PAGE_BYTES {
        scene.reset()?;
        leave_free(&ballast, free)?;
        let failed = scene.attempt()?;
        let place = || format!("{} with {free} pages free", scene.name());
        let stage = scene.stage(failed.is_none()).with_context(place)?;
        fs::remove_file(&ballast).context("removing the ballast")?;
        match failed {
            Some(stderr) => {
                num_failed += 1;
                num_inside += usize::from(stage != Stage::Before);
                ensure!(
                    stage != Stage::InsideNew,
                    "{}: it failed, and the new one serves",
                    place()
                );
                let says = stderr.contains("No space left on device");
                let path = scene.store.display().to_string();
                ensure!(says && stderr.contains(&path), "{}: unclear: {stderr}", place());
            }
            None => {
                output::line(&format!(
                    "{} on a full disk of {SIZE_KIB} KiB: {num_failed} failures with 0 to {} pages free, each with \
                     \"No space left on device\" and the path; the old generation served on, and {num_inside} left \
                     something; the next went through once there was room. Enough: {free} pages",
                    scene.name(),
                    free.saturating_sub(1)
                ));
                return Ok(());
            }
        }
        scene.recover().with_context(place)?;
    }
    anyhow::bail!("the {} never had enough of {SIZE_KIB} KiB", scene.name())
}

/// A file that takes all pages but so many.
fn leave_free(ballast: &Path, free: usize) -> Result<()> {
    let page = [0_u8; PAGE_BYTES];
    let mut file = fs::File::create(ballast).context("making the ballast")?;
    let mut num_bytes = 0_u64;
    while std::io::Write::write_all(&mut file, &page).is_ok() {
        num_bytes += PAGE_BYTES as u64;
    }
    let kept = num_bytes.saturating_sub((free * PAGE_BYTES) as u64);
    file.set_len(kept).context("cutting the ballast")
}
