// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Scoring rule
/// @notice Decides a round from its Gram matrix alone: which updates are outliers, how the accepted
/// ones are weighted, and how the pot is shared.
/// @dev Stateless and deterministic, in integers only; `marketplace/scoring.py` mirrors every rule
/// bit for bit. A rule is trusted for what it returns only as far as this interface says: the
/// marketplace checks that the shares do not exceed the pot, that the weights sum to 2^16, that an
/// outlier has neither share nor weight, no more has the root, and that nothing else is set.
interface IScoringRule {
    /// @notice The rule cannot read these parameters.
    error BadRuleParams(bytes32 params);
    /// @notice The rule takes fewer updates.
    error TooManyUpdates(uint256 n, uint256 most);
    /// @notice The matrix has a negative number on its diagonal, so it is no Gram matrix.
    error NotAGramMatrix(uint256 row);

    /// @notice Reverts unless `params` are parameters that this rule can read, and it scores
    /// `capacity` rows cheaply enough for a settlement to fit into a transaction (EIP-7825): else
    /// trainers could fill a round that nobody can settle.
    function checkParams(bytes32 params, uint256 capacity) external view;

    /// @notice Scores a round.
    /// @param params the rule's own parameters, packed as the rule documents
    /// @param n number of updates, the root's included; at least 1 and at most 255 others
    /// @param root row of the root trainer's update, n where there is none
    /// @param gram upper triangle of G row by row, n(n+1)/2 big-endian int64
    /// @param pot what the accepted trainers share, in units of the token
    /// @return scores a word an update, with the bits of the marketplace's records: share (96 bits,
    /// from the lowest), weight (from bit 192), outlier (bit 240); the shares sum to `pot`, the weights
    /// to 2^16, and an outlier has neither. The root's word is 0, or the outlier's bit alone where the
    /// root was set aside, because it contradicts the others
    function score(bytes32 params, uint256 n, uint256 root, bytes calldata gram, uint256 pot)
        external
        view
        returns (uint256[] memory scores);
}
