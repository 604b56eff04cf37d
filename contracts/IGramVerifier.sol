// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Gram verifier
/// @notice Decides whether a matrix is the Gram matrix of the updates behind a round's commitments.
/// @dev Called by the marketplace, which is `msg.sender`; a proof is bound to the chain, to that
/// caller, to the project and to the round.
interface IGramVerifier {
    /// @notice Identifies the structured reference string that commitments must use:
    /// keccak256([τ]₁ ‖ [τ]₂ ‖ [τ²]₂), coordinates of 48 bytes big-endian, x before y, c0 before c1.
    /// The value fixes τ, and with it every power of τ, whatever length of the string a client holds.
    function srsId() external view returns (bytes32);

    /// @notice Whether `gram` is proven to belong to `points`.
    /// @param project project id
    /// @param round round number
    /// @param aggregator the project's named aggregator
    /// @param points n commitments, 96 bytes each (x ‖ y, 48 bytes big-endian)
    /// @param gram upper triangle of G row by row, n(n+1)/2 big-endian int64
    /// @param proof what the verifier asks for
    function verify(
        bytes32 project,
        uint32 round,
        address aggregator,
        bytes calldata points,
        bytes calldata gram,
        bytes calldata proof
    ) external view returns (bool);
}
