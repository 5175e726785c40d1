"""Hostile code that several groups share, as text: it runs inside containers."""

from __future__ import annotations

# What the kernel lets this process do. Every attempt is harmless where it succeeds.
KERNEL = r'''
import ctypes, errno, mmap, os, pathlib, signal, socket, stat, struct

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def name(number):
    return errno.errorcode.get(number, str(number))


def attempt(call, *arguments):
    try:
        result = call(*arguments)
    except OSError as error:
        return name(error.errno)
    return result if isinstance(result, (int, str, bool, list)) else "ok"


def in_child(call):
    """What it answers in a child: what succeeds must not change this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, call().encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with open(read) as answer:
        text = answer.read()
    return text or f"killed by {signal.Signals(os.WTERMSIG(status)).name}"


def syscall(number, *arguments):
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]

    def call():
        ctypes.set_errno(0)
        result = libc.syscall(ctypes.c_long(number), *arguments)
        return "ok" if result >= 0 else name(ctypes.get_errno())

    return in_child(call)


def read(path):
    with open(path, "rb") as file:
        return len(file.read(16))


def write(path):
    descriptor = os.open(path, os.O_WRONLY)
    os.close(descriptor)


def machine_code(code):
    """Run bytes as code."""

    def call():
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        return "ok" if result >= 0 else name(-result)

    return in_child(call)


def status(path="/proc/self/status"):
    lines = pathlib.Path(path).read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def files(root="/"):
    """The paths of all files, but not of those in which the kernel tells of itself."""
    for directory, names, inside in os.walk(root):
        if directory == "/":
            names[:] = [n for n in names if n not in ("proc", "sys")]
        yield from (os.path.join(directory, n) for n in inside)


def mode(path, look=os.lstat):
    """The mode of a file, 0 where there is none to be had."""
    try:
        return look(path).st_mode
    except OSError:
        return 0


def has_capabilities(path):
    try:
        return "security.capability" in os.listxattr(path, follow_symlinks=False)
    except OSError:
        return False


def all_sockets():
    return [path for path in files() if stat.S_ISSOCK(mode(path))]


def with_bits():
    """Files with setuid or setgid, or with capabilities."""
    return [path for path in files() if mode(path) & 0o6000 or has_capabilities(path)]


def device_kinds():
    modes = {path: mode(path, os.stat) for path in files("/dev")}
    return {
        path: "block" if stat.S_ISBLK(found) else "character"
        for path, found in modes.items()
        if stat.S_ISBLK(found) or stat.S_ISCHR(found)
    }


def descriptors():
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            pass
    return found


def can_signal(pid):
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "EPERM"
    except ProcessLookupError:
        return "ESRCH"
    return "ok"


VEC = b"\0" * 64
PAGE = ctypes.create_string_buffer(4096)
HANDLE = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 256)
MOUNT_ID = ctypes.create_string_buffer(8)
ATTR = ctypes.create_string_buffer(128)
TIMES = ctypes.create_string_buffer(256)
RING = ctypes.create_string_buffer(120)
IOV = ctypes.create_string_buffer(16)


def calls():
    """System calls, by name: those that a function must never get."""
    probe = {
        "unshare_user": (272, 0x10000000),
        "unshare_net": (272, 0x40000000),
        "unshare_mount": (272, 0x00020000),
        "unshare_pid": (272, 0x20000000),
        "unshare_ipc": (272, 0x08000000),
        "unshare_uts": (272, 0x04000000),
        "unshare_cgroup": (272, 0x02000000),
        "mount": (165, b"none", b"/no", b"tmpfs", 0, 0),
        "umount2": (166, b"/no", 2),
        "pivot_root": (155, b"/no", b"/no"),
        "chroot": (161, b"/tmp"),
        "fsopen": (430, b"tmpfs", 0),
        "open_tree": (428, -100, b"/tmp", 1),
        "mount_setattr": (442, -100, b"/tmp", 0, ATTR, 32),
        "bpf": (321, 5, ATTR, 8),
        "perf_event_open": (298, ATTR, 0, -1, -1, 0),
        "keyctl": (250, 0, -3, 0, 0, 0),
        "add_key": (248, b"user", b"probe", b"x", 1, -2),
        "request_key": (249, b"user", b"probe", 0, -2),
        "io_uring_setup": (425, 1, RING),
        "userfaultfd": (323, 1),
        "ptrace": (101, 0, 0, 0, 0),
        "process_vm_readv": (310, os.getpid(), IOV, 1, IOV, 1, 0),
        "process_vm_writev": (311, os.getpid(), IOV, 1, IOV, 1, 0),
        "kcmp": (312, os.getpid(), os.getpid(), 0, 0, 0),
        "init_module": (175, PAGE, 16, b""),
        "finit_module": (313, 0, b"", 0),
        "delete_module": (176, b"no_such_module", 0),
        "kexec_load": (246, 0, 0, 0, 0),
        "name_to_handle_at": (303, -100, b"/tmp", HANDLE, MOUNT_ID, 0),
        "open_by_handle_at": (304, 0, HANDLE, 0),
        "fanotify_init": (300, 0, 0),
        "syslog": (103, 10, 0, 0),
        "adjtimex": (159, TIMES),
        "clock_settime": (227, 99, TIMES),
        "settimeofday": (164, 0, 0),
        "acct": (163, b"/no/such/file"),
        "quotactl": (179, 0x80000200, 0, 0, 0),
        "swapon": (167, b"/no/such/file", 0),
        "swapoff": (168, b"/no/such/file"),
        "reboot": (169, 0, 0, 0, 0),
        "iopl": (172, 0),
        "ioperm": (173, 0x80, 1, 1),
        "sethostname": (170, b"probe", 5),
        "setdomainname": (171, b"probe", 5),
        "modify_ldt": (154, 0, PAGE, 16),
        "vmsplice": (278, 1, IOV, 0, 0),
        "remap_file_pages": (216, 0, 0, 0, 0, 0),
        "vhangup": (153,),
        "personality": (135, 0x0040000),
        "clone_new_user": (56, 0x10000000 | 17, 0, 0, 0, 0),
        "clone3": (435, ATTR, 0),
        "pidfd_getfd": (438, 0, 0, 0),
        "lookup_dcookie": (212, 0, PAGE, 16),
        "landlock_and_others_still_answer": (39,),
    }
    return {call: syscall(*arguments) for call, arguments in probe.items()}


def setns():
    """Join a namespace by its file, as an escape through /proc would."""
    try:
        descriptor = os.open("/proc/self/ns/uts", os.O_RDONLY)
    except FileNotFoundError:
        descriptor = 0
    answer = syscall(308, descriptor, 0)
    if descriptor:
        os.close(descriptor)
    return answer


def probe_socket(family, kind, protocol=0):
    socket.socket(family, kind, protocol).close()


def handler(ctx):
    mine = status()
    every_family = {}
    for family in range(1, 46):
        answers = {attempt(probe_socket, family, kind) for kind in (1, 2, 3, 5)}
        every_family[family] = "ok" if "ok" in answers else sorted(map(str, answers))[0]
    return {
        "status": {key: mine.get(key) for key in (
            "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
            "NoNewPrivs", "Seccomp", "Seccomp_filters", "NSpid")},
        "namespaces": {n: attempt(os.readlink, f"/proc/self/ns/{n}") for n in (
            "cgroup", "ipc", "mnt", "net", "pid", "user", "uts")},
        "calls": calls() | {"setns": setns()},
        "sockets": {
            "packet": attempt(probe_socket, 17, socket.SOCK_RAW, 0x0300),
            "raw": attempt(probe_socket, 2, socket.SOCK_RAW, 1),
            "raw6": attempt(probe_socket, 10, socket.SOCK_RAW, 58),
            "alg": attempt(probe_socket, 38, socket.SOCK_SEQPACKET),
            "vsock": attempt(probe_socket, 40, socket.SOCK_STREAM),
            "tcp": attempt(probe_socket, 2, socket.SOCK_STREAM),
            "unix": attempt(probe_socket, 1, socket.SOCK_STREAM),
        },
        "families": sorted(f for f, answer in every_family.items() if answer == "ok"),
        # mov eax, 20 (getpid of 32-bit Linux); int 0x80; ret
        "call_32_bit": machine_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"),
        # mov eax, 0x40000027 (getpid of x32); syscall; ret
        "call_x32": machine_code(b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"),
        # mov eax, 39 (getpid); syscall; ret
        "call_64_bit": machine_code(b"\xb8\x27\x00\x00\x00\x0f\x05\xc3"),
        "write": {path: attempt(write, path) for path in (
            "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe",
            "/proc/sys/vm/panic_on_oom", "/proc/sys/net/ipv4/ip_forward", "/proc/irq/default_smp_affinity",
            "/sys/kernel/uevent_helper", "/sys/fs/cgroup/memory/release_agent",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max", "/sys/power/state",
            "/proc/1/oom_score_adj", "/proc/self/exe", "/proc/1/exe", "/proc/1/mem",
        )},
        "read": {path: attempt(read, path) for path in (
            "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/kmsg",
            "/proc/sched_debug", "/proc/latency_stats", "/proc/1/environ", "/proc/1/mem",
            "/proc/1/maps", "/dev/mem", "/dev/kmsg", "/proc/kpagecount", "/proc/vmallocinfo",
            "/proc/slabinfo", "/proc/acpi/wakeup",
        )},
        "list": {path: attempt(lambda path: sorted(os.listdir(path)), path) for path in (
            "/proc/1/root", "/proc/1/fd", "/proc/1/cwd", "/sys/firmware", "/sys/class/powercap",
            "/sys/devices/virtual/powercap", "/sys/class/thermal", "/sys/class/hwmon",
            "/sys/devices/virtual/thermal", "/sys/kernel/debug", "/sys/kernel/tracing",
            "/sys/kernel/security", "/sys/fs/bpf", "/proc/scsi", "/proc/asound",
        )},
        "kallsyms": attempt(lambda: any(
            int(line.split()[0], 16) for line in open("/proc/kallsyms").readlines()[:64])),
        "init": attempt(os.readlink, "/proc/1/exe"),
        "kill_init": can_signal(1),
        "descriptors": descriptors(),
        "sockets_in_files": all_sockets(),
        "setuid": with_bits(),
        "devices": device_kinds(),
        "processes": sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()),
        "ping_group_range": attempt(lambda: open("/proc/sys/net/ipv4/ping_group_range").read()),
    }
'''
