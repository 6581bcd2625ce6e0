#!/usr/bin/env python3
"""inferd serve on several ranks, over HTTP: threads of one process, and processes under mpirun. The answers of one
rank; clients that leave; SIGTERM; and a rank that is killed in mid-stream.

usage: serve_ranks.py INFERD MODULES MODEL"""
import http.client, json, os, shutil, signal, socket, subprocess, sys, tempfile, time

INFERD, MODULES, MODEL = sys.argv[1:4]
PROMPTS = [[1, 2, 3, 4], [700, 5, 9], list(range(20, 60)), [11]]
MPIRUN = [shutil.which("mpirun") or "", "--oversubscribe", "--bind-to", "none", "-n", "2"]
if os.geteuid() == 0:
    MPIRUN.insert(1, "--allow-run-as-root")
RANK = "OMPI_COMM_WORLD_RANK"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds=20):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"timed out: {what}"
        time.sleep(0.02)


class Server:
    """A server and the processes that it is made of, found by a mark in their environment."""

    def __init__(self, *args, launcher=()):
        self.port, self.mark = free_port(), f"INFERD_TEST_MARK={os.getpid()}-{time.time_ns()}"
        self.log = tempfile.TemporaryFile()
        key, value = self.mark.split("=")
        env = dict(os.environ, INFERD_MODULES=MODULES, **{key: value})
        command = [*launcher, INFERD, "serve", MODEL, "--port", str(self.port), "--device", "cpu", *args]
        self.process = subprocess.Popen(command, env=env, stderr=self.log, stdout=self.log)
        try:
            wait_for("ready", lambda: self.health() == 200 or self.process.poll() is not None)
            assert self.process.poll() is None, "ended at the start"
        except AssertionError:
            self.process.kill()
            print(self.text(), file=sys.stderr)
            raise

    def text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def health(self):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            c.request("GET", "/health")
            return c.getresponse().status
        except OSError:
            return 0

    def processes(self):
        """pid by rank (None: no rank) of every inferd of this server that is alive."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                env = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
                if self.mark.encode() not in env or os.readlink(f"/proc/{pid}/exe") != os.path.realpath(INFERD):
                    continue
                rank = [e.split(b"=")[1] for e in env if e.startswith(RANK.encode() + b"=")]
                found[int(rank[0]) if rank else None] = int(pid)
            except OSError:
                pass
        return found

    def start(self, prompt, max_tokens, stream):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = dict(prompt=prompt, max_tokens=max_tokens, temperature=0, ignore_eos=True, stream=stream)
        c.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = c.getresponse()
        assert answer.status == 200, answer.read()
        return c, answer

    def complete(self, prompt, max_tokens=24):
        return json.load(self.start(prompt, max_tokens, False)[1])["choices"][0]["text"]

    def running(self):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        c.request("GET", "/metrics")
        lines = c.getresponse().read().decode().splitlines()
        return sum(float(l.split()[-1]) for l in lines if l.startswith("vllm:num_requests_running"))

    def ended(self, seconds=20):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            print(self.text(), file=sys.stderr)
            raise


def check_answers(server, want):
    got = [server.complete(p) for p in PROMPTS]
    assert got == want, f"other answers than of one rank:\n{got}\n{want}"


def check_leaving(server):
    """A client that leaves in mid-stream frees its place, and the others go on."""
    c, answer = server.start(PROMPTS[0], 3000, True)
    answer.readline()
    assert server.running() == 1
    c.sock.shutdown(socket.SHUT_RDWR)
    c.close()
    wait_for("the request that was left", lambda: server.running() == 0)


def check_drain(server, pid):
    """SIGTERM in mid-stream: the stream comes to its end, everything ends with 0."""
    _, answer = server.start(PROMPTS[0], 200, True)
    answer.readline()
    os.kill(pid, signal.SIGTERM)
    assert answer.read().rstrip().endswith(b"data: [DONE]")
    code = server.ended()
    assert code == 0, f"exit code {code}:\n{server.text()}"
    assert not server.processes()


def check_death(launcher, status_of_rank_0=None):
    """SIGKILL of rank 1 in mid-stream: the client gets an error event, and nothing is left."""
    before = set(os.listdir("/dev/shm"))
    server = Server(launcher=launcher)
    _, answer = server.start(PROMPTS[0], 3000, True)
    answer.readline()
    start = time.time()
    os.kill(server.processes()[1], signal.SIGKILL)
    rest = answer.read()
    took = time.time() - start
    assert b'"error"' in rest and b"rank" in rest, (rest[-400:], server.text())
    assert took < 5, f"the error came after {took:.1f} s"
    assert server.health() in (0, 503)
    code = server.ended()
    if status_of_rank_0:
        code = int(open(status_of_rank_0).read())
        assert code == 1, f"exit code {code}:\n{server.text()}"
    assert code != 0
    assert not server.processes(), server.processes()
    wait_for("shared memory", lambda: set(os.listdir("/dev/shm")) <= before, 5)
    assert "the engine has failed" in server.text(), server.text()


def check_core_death(launcher):
    """SIGKILL of rank 0: the others end by themselves."""
    server = Server(launcher=launcher)
    os.kill(server.processes()[0], signal.SIGKILL)
    wait_for("the other ranks' end", lambda: not server.processes())
    server.ended()


def refused(*args, says):
    r = subprocess.run(args, env=dict(os.environ, INFERD_MODULES=MODULES), capture_output=True, text=True, timeout=60)
    assert r.returncode and says in r.stderr, (r.returncode, r.stderr)


def main():
    one = Server("--tensor-parallel-size", "1")
    want = [one.complete(p) for p in PROMPTS]
    check_drain(one, one.process.pid)

    two = Server("--tensor-parallel-size", "2")
    check_answers(two, want)
    check_leaving(two)
    check_drain(two, two.process.pid)
    refused(INFERD, "serve", MODEL, "--tensor-parallel-size", "3", "--device", "cpu", says="cannot be divided")

    if not MPIRUN[0] or not os.path.exists(f"{MODULES}/inferd_mpi.so"):
        print("no mpirun or no MPI module here: ranks that are processes are not tested")
        return 77
    server = Server(launcher=MPIRUN)
    check_answers(server, want)
    check_leaving(server)
    check_answers(server, want)
    os.kill(server.processes()[1], signal.SIGTERM)  # which is rank 0's business
    check_drain(server, server.processes()[0])
    refused(*MPIRUN, INFERD, "serve", MODEL, "--port", "0", "--tensor-parallel-size", "1",
            says="it is 1, but mpirun or srun started 2 processes")
    refused(*MPIRUN, INFERD, "run", MODEL, "x", says="only serve runs in several processes")

    check_death(MPIRUN)
    with tempfile.TemporaryDirectory() as d:
        # mpirun leaves the others alone here: rank 0 ends by itself
        note = ["sh", "-c", f'"$@"; echo $? > {d}/$' + RANK, "sh"]
        recovery = [MPIRUN[0], "--enable-recovery", *MPIRUN[1:]]
        check_death([*recovery, *note], f"{d}/0")
        check_core_death(recovery)
    return 0


sys.exit(main())
