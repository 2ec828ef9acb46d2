"""Nobody's AWS account, profile or proxy has a part in the local stack: all that it talks to is on this machine."""

import os


def forget_the_world() -> None:
    """Take the caller's AWS settings and proxies out of this process. Comes before boto3 is imported.

    The functions get none of these variables in any case.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
