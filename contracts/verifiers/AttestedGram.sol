// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {IGramVerifier} from "../IGramVerifier.sol";

/// @title Attested Gram matrix
/// @notice Accepts a matrix that the project's aggregator signed (EIP-712). The aggregator is
/// trusted to have computed it: a policy for chains without EIP-2537.
contract AttestedGram is IGramVerifier, EIP712 {
    bytes32 private constant GRAM_TYPEHASH = keccak256(
        "Gram(address marketplace,bytes32 project,uint32 round,bytes32 pointsHash,bytes32 gramHash)"
    );

    /// @inheritdoc IGramVerifier
    bytes32 public immutable srsId;

    constructor(bytes32 srsId_) EIP712("Tribute AttestedGram", "1") {
        srsId = srsId_;
    }

    /// @inheritdoc IGramVerifier
    function verify(
        bytes32 project,
        uint32 round,
        address aggregator,
        bytes calldata points,
        bytes calldata gram,
        bytes calldata proof
    ) external view returns (bool) {
        bytes32 claim = keccak256(
            abi.encode(
                GRAM_TYPEHASH, msg.sender, project, round, keccak256(points), keccak256(gram)
            )
        );
        return
            SignatureChecker.isValidSignatureNowCalldata(aggregator, _hashTypedDataV4(claim), proof);
    }
}
