"""What a hostile agent may leave in its home before root comes: each a program under its own uid, by name.

`{at}` is where something declared belongs; `shared`, `roots`, `human` and `vox` are paths outside. A program that has
to stay says `ready` and sleeps.
"""

FUSE = """
import os, socket, subprocess, time
ours, theirs = socket.socketpair()
os.makedirs("{at}", exist_ok=True)
subprocess.run(["fusermount3", "-o", "fsname=hang,allow_other", "--", "{at}"], pass_fds=[theirs.fileno()], check=True,
               env={"_FUSE_COMMFD": str(theirs.fileno()), "PATH": "/usr/bin"})
server = socket.recv_fds(ours, 1, 1)[1]  # nobody ever answers
print("ready", flush=True)
time.sleep(100)
"""

PINNED = """
import os, subprocess, time
os.makedirs("pinned/in", exist_ok=True)
os.makedirs("{at}", exist_ok=True)
script = ('mount --rbind . pinned/in && mount -t tmpfs tmpfs "{at}" && mount --bind "{at}" pinned && cd pinned && '
          'echo ready && exec sleep 100')
os.execvp("unshare", ["unshare", "-Urm", "--propagation", "private", "sh", "-ec", script])
"""

HELD = """
import os, time
os.makedirs("{at}/deeper", exist_ok=True)
held = [os.open(".", os.O_RDONLY), os.open("{at}", os.O_RDONLY), open("{at}/open", "w")]
os.chdir("{at}/deeper")
print("ready", flush=True)
time.sleep(100)
"""

LEASED = """
import fcntl, os, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = []
for name in {names}:
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, b"leased")
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    held.append(fd)
print("ready", flush=True)
time.sleep(100)
"""

DEEP = """
import os
os.makedirs("{at}", exist_ok=True)
fd = os.open("{at}", os.O_RDONLY)
for _ in range(10_000):
    os.mkdir("d", dir_fd=fd)
    below = os.open("d", os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    fd = below
os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
"""

NAMES = r"""
import os
os.makedirs("{at}", exist_ok=True)
for name in (b"a\nb", b"\x1b]0;owned\x07", b"\xff\xfe", b"x" * 255, b"-rf", b" ", b"a\rb", b"\\n", b"$(id)", b"..x",
             b"...", "\u202egnp.exe".encode(), "\u200b".encode(), b"ada@now", b".nuketown-0123456789ab",
             b".nuketown-0123456789ab-vox", b".x.0123456789ab.new", b"*", b"%i", b"#", b"'\";"):
    os.close(os.open(b"{at}/" + name, os.O_CREAT | os.O_WRONLY, 0o600))
    os.mkdir(b"{at}/" + name[:250] + b".dir")
"""

SUBVOLUME = """
import fcntl, os, struct
def subvolume(directory, name):
    fd = os.open(directory, os.O_RDONLY)
    fcntl.ioctl(fd, 0x5000940E, bytearray(struct.pack("=q4088s", 0, name)))  # BTRFS_IOC_SUBVOL_CREATE
    os.close(fd)
def read_only(path, value=2):
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, 0x4008941A, struct.pack("=Q", value))  # BTRFS_IOC_SUBVOL_SETFLAGS
    os.close(fd)
"""

# What stands at a declared path, or on the way to it, when restore comes. Every one may cost ada her directory.
STANDING = {
    "a link to another agent's home": 'import os; os.symlink(vox, "{at}")',
    "a link to a directory of root's": 'import os; os.symlink(roots, "{at}")',
    "a link to where everybody may look": 'import os; os.symlink(shared, "{at}")',
    "a relative link to another agent's home": 'import os; os.symlink("../vox", "{at}")',
    "a relative link to where everybody may look": 'import os; os.symlink("../../shared", "{at}")',
    "a link through /proc to another's": 'import os; os.symlink("/proc/self/cwd", "{at}")',
    "a link to itself": 'import os; os.symlink("{at}", "{at}")',
    "a file": 'open("{at}", "w").write("x")',
    "a FIFO that nobody writes to": 'import os; os.mkfifo("{at}")',
    "a socket": 'import socket; socket.socket(socket.AF_UNIX).bind("{at}")',
    "data that a mount would hide": 'import os; os.mkdir("{at}"); open("{at}/data", "w").write("x")',
    "ten thousand directories, one in the other": DEEP,
    "names that act on terminals and shells": NAMES,
    "a subvolume": SUBVOLUME + 'subvolume(".", b"{at}"); open("{at}/data", "w").write("x")',
    "a read-only subvolume": SUBVOLUME + 'subvolume(".", b"{at}"); read_only("{at}")',
    "a directory that nobody may enter": 'import os; os.mkdir("{at}", 0)',
    "a file of two terabytes": 'import os; os.truncate(os.open("{at}", os.O_CREAT | os.O_WRONLY), 1 << 41)',
    "a file that is set-uid": 'import os; os.fchmod(os.open("{at}", os.O_CREAT | os.O_WRONLY), 0o6755)',
}

# What the home itself is like. Homes that are only odd must work.
HOMES = {
    "nobody may enter it": 'import os; os.chmod(".", 0)',
    "everybody may do all in it": 'import os; os.chmod(".", 0o7777)',
    "it gives what is made in it to others": (
        'import os, struct; entry = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in ('
        "(1, 7, 0xFFFFFFFF), (2, 7, 41101), (4, 7, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 7, 0xFFFFFFFF))); "
        'os.setxattr(".", "system.posix_acl_default", entry); os.chmod(".", 0o2777)'
    ),
    "hidden names of restore's own form lie in it": (
        'import os; [os.makedirs(f".nuketown-{number:012x}/whole") for number in range(50)]'
    ),
    "it holds twenty thousand names": (
        'import os; os.mkdir("many"); [os.close(os.open(f"many/{n}", os.O_CREAT)) for n in range(20_000)]'
    ),
}
HELD_HOMES = {"mounts of her own namespace pin it": PINNED, "her processes stand in it": HELD}
