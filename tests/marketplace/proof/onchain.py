"""Let GramVerifier.sol decide on a local chain; any address can play the marketplace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import requests
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from deploy.compile import artefact
from marketplace.proof.srs import SrsHeader

_SELECTOR = keccak(b"verify(bytes32,uint32,address,bytes,bytes,bytes)")[:4]
_TYPES = ["bytes32", "uint32", "address", "bytes", "bytes", "bytes"]
_BATCH_BYTES = 500_000
_GAS = 10_000_000


class OnChain:
    """Speak to a devnet; `marketplace` is the account that calls verifiers."""

    def __init__(self, rpc: str) -> None:
        self._rpc = rpc
        self._session = requests.Session()
        self.chain_id = int(self.request("eth_chainId"), 16)
        self.marketplace: str = self.request("eth_accounts")[0]

    def deploy(self, header: SrsHeader) -> str:
        arguments = encode(["bytes"] * 3, [header.tau_g1, header.tau_g2, header.tau2_g2])
        return str(
            self.receipt(None, artefact("GramVerifier").bytecode + arguments)["contractAddress"]
        )

    def receipt(self, to: str | None, data: bytes) -> dict[str, Any]:
        # an estimate would be too low: `verify` returns false where a precompile runs out of gas
        transaction = {"from": self.marketplace, "data": "0x" + data.hex(), "gas": hex(_GAS)}
        if to is not None:
            transaction["to"] = to
        hashed = self.request("eth_sendTransaction", transaction)
        while (found := self.request("eth_getTransactionReceipt", hashed)) is None:
            time.sleep(0.02)
        assert int(found["status"], 16) == 1
        return dict(found)

    def verdicts(self, verifier: str, calls: Sequence[bytes], sender: str = "") -> list[bool]:
        """Return what `verify` answers to each of these `call_data`."""
        found: list[bool] = []
        step = max(1, _BATCH_BYTES // max(map(len, calls), default=1))
        for at in range(0, len(calls), step):
            answers = self._post(
                [
                    {
                        "jsonrpc": "2.0",
                        "id": i,
                        "method": "eth_call",
                        "params": [
                            {
                                "from": sender or self.marketplace,
                                "to": verifier,
                                "data": "0x" + data.hex(),
                                "gas": hex(_GAS),
                            },
                            "latest",
                        ],
                    }
                    for i, data in enumerate(calls[at : at + step])
                ]
            )
            for answer in sorted(answers, key=lambda a: int(a["id"])):
                value = int(answer["result"], 16)
                assert value in (0, 1)
                found.append(value == 1)
        return found

    def request(self, method: str, *params: object) -> Any:
        answer = self._post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _post(self, body: object) -> Any:
        return self._session.post(self._rpc, json=body, timeout=120).json()


def call_data(project: bytes, round_: int, points: bytes, gram: bytes, proof: bytes) -> bytes:
    values = [project, round_, "0x" + bytes(20).hex(), points, gram, proof]
    return _SELECTOR + encode(_TYPES, values)
