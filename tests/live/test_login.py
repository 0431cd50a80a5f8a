"""Every client at hand logs in by every mechanism that it has, over STARTTLS and implicit TLS; nothing secret is written."""

import asyncio
import json
import os
import re
import shutil
import smtplib
import ssl
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from processes import BIN, PATIENCE, Gateway, mails, need, wait_until
from scramp import ScramClient, ScramMechanism

from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

ANNA, PASSWORD, WRONG = "anna@example.org", "Tr0ub4dor-and-3", "c0rrect-horse"
HASHES = ("SCRAM-SHA-256", "SCRAM-SHA-1")

CONFIGURATION = """\
[server]
hostname = "localhost"
state = "state"
[tls.default]
certificate = "cert.pem"
key = {{ file = "key.pem" }}
client_ca = "ca.pem"
[accounts.scram-sha-256]
type = "password-file"
path = "scram-sha-256"
[accounts.scram-sha-1]
type = "password-file"
path = "scram-sha-1"
[accounts.clear]
type = "password-file"
path = "clear"
allow_plaintext = true
cram_md5 = true
[accounts.tokens]
type = "oauth"
issuer = "https://login.example"
audience = "mailgw"
claim = "email"
keys = "jwks.json"
[accounts.certificates]
type = "certificates"
names = {{ "{anna}" = "{anna}" }}
[logins]
delay = "1ms"
longest_delay = "1ms"
ban_after = "unlimited"
[listen.submission]
kind = "submission"
endpoint = "tcp:{starttls}:interface=127.0.0.1"
accounts = ["scram-sha-256", "scram-sha-1", "clear", "tokens", "certificates"]
[listen.submissions]
like = "submission"
endpoint = "tls:{tls}:interface=127.0.0.1"
[[permit]]
on = ["submission", "submissions"]
authenticated = true
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail/{{local_part}}"
"""


class Logging(Gateway):
    """The gateway, with the journal in JSON beside its log."""

    def launch(self):
        command = [BIN / "twistd", "-n", "--pidfile=", f"--logfile={self.log}", "mailgw", "--config", self.file]
        self.process = subprocess.Popen([*command, "--json-log", self.folder / "json"], cwd=self.folder, stderr=subprocess.PIPE)

    def logged_in(self, recipient):
        """What the log says about the login of the session that sent mail to ``recipient``."""
        log = self.log.read_text()
        session = re.search(rf" (session=\S+) accepted .* recipients={re.escape(recipient)} ", log)
        return re.findall(rf"{session[1]} (login .*)", log) if session else []

    def failures(self, mechanism):
        """How many attempts by this mechanism have failed, as the log says."""
        line = f" login failed: client=127.0.0.1 account={ANNA} mechanism={mechanism} listener=submission "
        return self.log.read_text().count(line)


@pytest.fixture(scope="module")
def secrets():
    """All that must never be written, as it comes."""
    return {PASSWORD, WRONG}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, secrets):
    folder = tmp_path_factory.mktemp("login")
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    server.private_key_pem.write_to_path(folder / "key.pem")
    server.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client = authority.issue_cert(ANNA)
    client.private_key_pem.write_to_path(folder / "client-key.pem")
    client.cert_chain_pems[0].write_to_path(folder / "client-cert.pem")
    (folder / "clear").write_text(f"{ANNA}:{{PLAIN}}{PASSWORD}\n")
    for name in HASHES:
        salt, stored, served, count = ScramMechanism(name).make_auth_info(PASSWORD, iteration_count=4096)
        fields = ",".join([str(count), *(b64encode(one).decode() for one in (salt, stored, served))])
        (folder / name.lower()).write_text(f"{ANNA}:{{{name}}}{fields}\n")
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(ECAlgorithm.to_jwk(key.public_key())) | {"kid": "one", "alg": "ES256", "use": "sig"}
    (folder / "jwks.json").write_text(json.dumps({"keys": [public]}))
    for path in folder.iterdir():
        path.chmod(0o600)
    starttls, tls = free_port(), free_port()
    made = Logging(folder, CONFIGURATION.format(starttls=starttls, tls=tls, anna=ANNA), starttls)
    claims = {"iss": "https://login.example", "aud": "mailgw", "email": ANNA, "exp": int(time.time()) + 3600}
    made.token = jwt.encode(claims, key, "ES256", {"kid": "one"})
    made.ports = {"starttls": starttls, "tls": tls}
    secrets |= {made.token, made.token.rpartition(".")[2]}
    with made:
        yield made


def run(words, gateway, stdin="", **environment):
    """Run a client in a home of its own; gives how it ended."""
    home = gateway.folder / "home"
    home.mkdir(exist_ok=True)
    environment |= {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=PATIENCE, cwd=home, env=environment)
    sys.stdout.write(f"{done.stdout}{done.stderr}")  # pytest shows it where the test fails
    return done


MESSAGE = f"From: {ANNA}\nTo: {{to}}\nSubject: hello\n\nhello\n"

# ── The clients: each sends one message to ``to``, or gives no 0 ──


def swaks(gateway, way, mechanism, to, password):
    words = [need("swaks"), "--server", f"127.0.0.1:{gateway.ports[way]}", "--from", ANNA, "--to", to, "--silent", "3"]
    words += ["--tls" if way == "starttls" else "--tls-on-connect", "--auth", mechanism, "--auth-user", ANNA, "--auth-password", password]
    return run(words, gateway).returncode


def curl(gateway, way, mechanism, to, password):
    scheme = "smtp" if way == "starttls" else "smtps"
    words = [need("curl"), "--silent", "--show-error", "--cacert", gateway.folder / "ca.pem", "--ssl-reqd"]
    words += [f"{scheme}://127.0.0.1:{gateway.ports[way]}", "--mail-from", ANNA, "--mail-rcpt", to, "-T", "-"]
    words += ["--login-options", f"AUTH={mechanism}"]
    if mechanism in ("OAUTHBEARER", "XOAUTH2"):
        words += ["--user", ANNA, "--oauth2-bearer", gateway.token if password == PASSWORD else WRONG]
    elif mechanism == "EXTERNAL":
        words += ["--user", f"{ANNA}:", "--cert", gateway.folder / "client-cert.pem", "--key", gateway.folder / "client-key.pem"]
    else:
        words += ["--user", f"{ANNA}:{password}"]
    return run(words, gateway, MESSAGE.format(to=to).replace("\n", "\r\n")).returncode


def msmtp(gateway, way, mechanism, to, password):
    lines = ["host 127.0.0.1", f"port {gateway.ports[way]}", "tls on", f"tls_starttls {'on' if way == 'starttls' else 'off'}"]
    lines += [f"tls_trust_file {gateway.folder}/ca.pem", f"auth {mechanism.lower()}", f"user {ANNA}", f"from {ANNA}"]
    if mechanism == "EXTERNAL":
        lines += [f"tls_cert_file {gateway.folder}/client-cert.pem", f"tls_key_file {gateway.folder}/client-key.pem"]
    else:
        secret = gateway.token if mechanism in ("OAUTHBEARER", "XOAUTH2") and password == PASSWORD else password
        lines.append(f'passwordeval "echo {secret}"')
    file = gateway.folder / "msmtprc"
    file.write_text("\n".join(["defaults", "account default", *lines]) + "\n")
    file.chmod(0o600)
    return run([need("msmtp"), f"--file={file}", to], gateway, MESSAGE.format(to=to)).returncode


def s_nail(gateway, way, mechanism, to, password):
    secret = gateway.token if mechanism == "XOAUTH2" and password == PASSWORD else password
    user, name = ANNA.replace("@", "%40"), "oauthbearer" if mechanism == "XOAUTH2" else mechanism.lower()  # what it takes the former for
    scheme = "smtp" if way == "starttls" else "smtps"
    settings = ["v15-compat", "tls-verify=strict", f"tls-ca-file={gateway.folder}/ca.pem", "tls-ca-no-defaults", f"from={ANNA}"]
    settings += [f"mta={scheme}://{user}:{secret}@localhost:{gateway.ports[way]}", f"smtp-auth={name}"]
    settings += ["smtp-use-starttls"] if way == "starttls" else []
    if mechanism == "EXTERNAL":
        settings.append(f"tls-config-pairs=Certificate={gateway.folder}/client-cert.pem,PrivateKey={gateway.folder}/client-key.pem")
    words = [need("s-nail"), "-:/", "-s", "hello", *(word for one in settings for word in ("-S", one)), to]
    return run(words, gateway, "hello\n", MAILRC="/dev/null", LC_ALL="C.UTF-8").returncode


NODEMAILER = """
const [port, way, kind, user, secret, to, ca] = process.argv.slice(1);
const auth = kind === "XOAUTH2" ? { type: "OAuth2", user, accessToken: secret } : { user, pass: secret };
const transport = require("nodemailer").createTransport({
  host: "localhost", port: Number(port), secure: way === "tls", requireTLS: way !== "tls", auth,
  ...(kind === "XOAUTH2" ? {} : { authMethod: kind }), tls: { ca: require("fs").readFileSync(ca) },
});
transport.sendMail({ from: user, to, subject: "hello", text: "hello" }).then(() => 0, () => process.exit(1));
"""


def nodemailer(gateway, way, mechanism, to, password):
    node = need("node")
    modules = subprocess.run([need("npm"), "root", "-g"], capture_output=True, text=True, timeout=PATIENCE).stdout.strip()
    if not Path(modules, "nodemailer").is_dir():
        pytest.skip(f"nodemailer is not installed in {modules}")
    secret = gateway.token if mechanism == "XOAUTH2" and password == PASSWORD else password
    words = [node, "-e", NODEMAILER, str(gateway.ports[way]), way, mechanism, ANNA, secret, to, gateway.folder / "ca.pem"]
    return run(words, gateway, NODE_PATH=modules).returncode


def trusting(gateway, version=None):
    context = ssl.create_default_context(cafile=gateway.folder / "ca.pem")
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def connected(gateway, way, version=None):
    if way == "tls":
        return smtplib.SMTP_SSL("127.0.0.1", gateway.ports[way], timeout=PATIENCE, context=trusting(gateway, version))
    client = smtplib.SMTP("127.0.0.1", gateway.ports[way], timeout=PATIENCE)
    client.starttls(context=trusting(gateway, version))
    return client


def sent(client, to):
    client.sendmail(ANNA, [to], MESSAGE.format(to=to).replace("\n", "\r\n"))
    return 0


def python_smtplib(gateway, way, mechanism, to, password):
    with connected(gateway, way) as client:
        client.ehlo()
        client.user, client.password = ANNA, password
        try:
            client.auth(mechanism, getattr(client, f"auth_{mechanism.lower().replace('-', '_')}"))
        except smtplib.SMTPAuthenticationError as refused:
            return refused.smtp_code
        return sent(client, to)


def python_aiosmtplib(gateway, way, mechanism, to, password):
    async def talk():
        client = aiosmtplib.SMTP(
            hostname="127.0.0.1", port=gateway.ports[way], use_tls=way == "tls", start_tls=way != "tls", tls_context=trusting(gateway)
        )
        async with client:
            await client.ehlo()
            try:
                if mechanism == "XOAUTH2":
                    await client.auth_xoauth2(ANNA, gateway.token if password == PASSWORD else WRONG)
                else:
                    await getattr(client, f"auth_{mechanism.lower().replace('-', '')}")(ANNA, password)
            except aiosmtplib.SMTPAuthenticationError as refused:
                return refused.code
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = ANNA, to, "hello"
            message.set_content("hello\n")
            await client.send_message(message)
            return 0

    return asyncio.run(talk())


def scramp(gateway, way, mechanism, to, password, secrets=None):
    """Another library's SCRAM over smtplib; Python's TLS can bind channels of TLS 1.2 only."""
    plus = mechanism.endswith("-PLUS")
    with connected(gateway, way, ssl.TLSVersion.TLSv1_2 if plus else None) as client:
        client.ehlo()
        binding = ("tls-unique", client.sock) if plus else None
        scram = ScramClient([mechanism], ANNA, password, channel_binding=binding)
        proofs = []

        def answer(challenge=None):
            if challenge is None:
                return scram.get_client_first()
            text = challenge if isinstance(challenge, str) else challenge.decode()
            if text.startswith("v="):
                scram.set_server_final(text)
                return ""
            scram.set_server_first(text)
            proofs.append(scram.get_client_final())
            return proofs[-1]

        code, response = client.docmd("AUTH", f"{mechanism} {b64encode(answer().encode()).decode()}")
        while code == 334:
            code, response = client.docmd(b64encode(answer(b64decode(response)).encode()).decode())
        if secrets is not None:
            secrets.add(proofs[0].partition(",p=")[2])
        return sent(client, to) if code == 235 else code


def gsasl(gateway, way, mechanism, to, password):
    """It only logs in, and only after STARTTLS; TLS 1.3, with its exporter."""
    words = [need("gsasl"), "--smtp", f"--x509-ca-file={gateway.folder}/ca.pem", "-m", mechanism, "-a", ANNA, "-p", password]
    if not mechanism.endswith("-PLUS"):
        words.append("--no-cb")
    return run([*words, "-z", "", "localhost", str(gateway.ports[way])], gateway).returncode


CLIENTS = [
    *[(swaks, name) for name in ("PLAIN", "LOGIN", "CRAM-MD5")],
    *[(curl, name) for name in ("PLAIN", "LOGIN", "CRAM-MD5", "OAUTHBEARER", "EXTERNAL")],  # XOAUTH2 only where OAUTHBEARER is not
    *[(msmtp, name) for name in ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "EXTERNAL")],
    *[(s_nail, name) for name in ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "EXTERNAL")],
    *[(nodemailer, name) for name in ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")],
    *[(python_smtplib, name) for name in ("PLAIN", "LOGIN", "CRAM-MD5")],
    *[(python_aiosmtplib, name) for name in ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")],
    *[(scramp, name) for name in ("SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS")],
]
ROWS = [(client, mechanism, way) for client, mechanism in CLIENTS for way in ("starttls", "tls")]


@pytest.mark.parametrize(("client", "mechanism", "way"), ROWS, ids=[f"{row[0].__name__}-{row[1]}-{row[2]}" for row in ROWS])
def test_logs_in_and_sends(gateway, client, mechanism, way):
    to = f"{client.__name__}-{mechanism}-{way}@example.net".lower()
    assert client(gateway, way, mechanism, to, PASSWORD) == 0
    [mail] = wait_until(lambda: mails(gateway.folder / "mail" / to.partition("@")[0]), f"mail for {to}")
    assert b" with ESMTPSA\n" in mail
    listener = "submission" if way == "starttls" else "submissions"
    told = wait_until(lambda: gateway.logged_in(to), "the line in the log")
    assert told == [f"login client=127.0.0.1 mechanism={mechanism} login={ANNA} listener={listener}"]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5"])
def test_gsasl_logs_in(gateway, mechanism):
    line = f" login client=127.0.0.1 mechanism={mechanism} login={ANNA} listener=submission\n"
    before = gateway.log.read_text().count(line)
    assert gsasl(gateway, "starttls", mechanism, "", PASSWORD) == 0
    wait_until(lambda: gateway.log.read_text().count(line) > before, "the line in the log")


WRONG_ROWS = [
    *[(swaks, "PLAIN"), (curl, "LOGIN"), (curl, "OAUTHBEARER"), (msmtp, "SCRAM-SHA-256"), (msmtp, "XOAUTH2"), (s_nail, "CRAM-MD5")],
    *[(nodemailer, "PLAIN"), (python_smtplib, "CRAM-MD5"), (python_aiosmtplib, "PLAIN"), (scramp, "SCRAM-SHA-256-PLUS"), (gsasl, "PLAIN")],
]


@pytest.mark.parametrize(("client", "mechanism"), WRONG_ROWS, ids=[f"{row[0].__name__}-{row[1]}" for row in WRONG_ROWS])
def test_a_wrong_password_or_token_is_refused(gateway, client, mechanism):
    before = gateway.failures(mechanism)
    assert client(gateway, "starttls", mechanism, "nobody@example.net", WRONG) != 0
    wait_until(lambda: gateway.failures(mechanism) > before, "the line in the log")
    assert not mails(gateway.folder / "mail" / "nobody")


def test_the_line_for_fail2ban(gateway):
    with connected(gateway, "starttls") as client:
        client.ehlo()
        client.user, client.password = "nobody", WRONG
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.auth("PLAIN", client.auth_plain)
    assert (refused.value.smtp_code, refused.value.smtp_error) == (535, b"5.7.8 authentication credentials invalid")
    line = 'login failed: client=127.0.0.1 account=nobody mechanism=PLAIN listener=submission reason="wrong name or proof"'
    wait_until(lambda: line in gateway.log.read_text(), "the line")


def test_the_client_and_the_server_prove_themselves_to_each_other(gateway, secrets):
    assert scramp(gateway, "tls", "SCRAM-SHA-256", "proof@example.net", PASSWORD, secrets) == 0


def test_in_clear_there_is_no_auth(gateway):
    with smtplib.SMTP("127.0.0.1", gateway.ports["starttls"], timeout=PATIENCE) as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.docmd("AUTH", "PLAIN AHgAeQ==") == (530, b"5.7.0 say STARTTLS first")


def test_nothing_secret_was_written(gateway, secrets):
    # The last test of this file: it looks at what all the others have left.
    assert len(secrets) >= 4
    with_base64 = set(secrets)
    for name, password in ((ANNA, PASSWORD), (ANNA, WRONG), ("nobody", WRONG)):
        with_base64 |= {b64encode(text.encode()).decode().rstrip("=") for text in (password, f"\0{name}\0{password}")}
    wait_until(lambda: '"login-failed"' in (gateway.folder / "json").read_text(), "the failures in the journal")
    assert "login failed:" in gateway.log.read_text()
    written = [gateway.log, gateway.folder / "json", *(path for path in (gateway.folder / "state").rglob("*") if path.is_file())]
    assert len(written) > 3
    for path in written:
        octets = path.read_bytes()
        found = [secret for secret in with_base64 if secret.encode() in octets]
        assert not found, f"{path.name} holds {found}"


def test_the_clients_are_there():
    # A machine without them should not take this file for passed.
    missing = [name for name in ("swaks", "curl", "msmtp", "s-nail", "gsasl", "node") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
