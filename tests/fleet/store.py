"""An S3-compatible store on loopback that checks signatures, behind a proxy that can be taken away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3

from processes import free_port, wait_for

BUCKET = "fleet"
REGION = "us-east-1"
# Those by which the user below is made; from then on every request is checked.
ACTIONS_WITHOUT_SIGNATURE = 3


class Store:
    """moto's server, which keeps everything in memory. `address` is the proxy's."""

    def __init__(self, folder):
        self.folder = folder
        self.moto_port, self.port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(ACTIONS_WITHOUT_SIGNATURE)}
        program = Path(sys.executable).with_name("moto_server")
        self.moto = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(self.moto_port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "moto.log").open("w"),
        )
        wait_for(f"http://127.0.0.1:{self.moto_port}/moto-api/", self.moto)
        self.key = self._make_user()
        self._s3(self.moto_port).create_bucket(Bucket=BUCKET)
        self.proxy = None
        self.start()

    def _client(self, service, port, key):
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name=REGION,
            aws_access_key_id=key["AccessKeyId"],
            aws_secret_access_key=key["SecretAccessKey"],
        )

    def _make_user(self):
        iam = self._client("iam", self.moto_port, {"AccessKeyId": "none", "SecretAccessKey": "none"})
        iam.create_user(UserName="skeg")
        key = iam.create_access_key(UserName="skeg")["AccessKey"]
        allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName="skeg", PolicyName="store", PolicyDocument=document)
        return key

    def _s3(self, port):
        return self._client("s3", port, self.key)

    def environment(self, **changes):
        """What a user of the store has in its environment."""
        return {
            **os.environ,
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": self.key["SecretAccessKey"],
            **changes,
        }

    def start(self):
        """Opens the way to it."""
        config = self.folder / "store.cfg"
        config.write_text(
            "defaults\n  mode http\n  timeout connect 1s\n  timeout client 10s\n  timeout server 10s\n"
            f"listen store\n  bind 127.0.0.1:{self.port}\n  server moto 127.0.0.1:{self.moto_port}\n"
        )
        self.proxy = subprocess.Popen(["haproxy", "-f", config], stderr=subprocess.DEVNULL)
        wait_for(f"{self.address}/moto-api/", self.proxy)

    def stop(self):
        """From now on a connection to it is refused."""
        self.proxy.kill()
        self.proxy.wait()

    def freeze(self, frozen):
        """It takes connections, but answers nothing."""
        self.moto.send_signal(19 if frozen else 18)  # SIGSTOP, SIGCONT

    def end(self):
        self.freeze(False)
        for process in (self.proxy, self.moto):
            process.kill()
            process.wait()
