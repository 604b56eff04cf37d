// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IScoringRule} from "../IScoringRule.sol";

/// @title Multi-Krum and Shapley shares
/// @notice Norms are clipped to the median norm; updates far from their neighbours are outliers
/// (multi-Krum, Blanchard et al. 2017); the others are weighted by their clipping factor, and share
/// the pot by the Shapley values of v(S) = |Σ_{i∈S} w_i u_i|², which are w_i Σ_j w_j G_ij.
/// @dev Parameters: uint16 maxOutliersBps ‖ uint16 toleranceBps ‖ 28 zero bytes. At most
/// maxOutliersBps (≤ 5,000) of 10,000 updates are outliers, and only those whose Krum score is above
/// toleranceBps (≥ 10,000) / 10,000 of the lower median score.
///
/// Magnitudes, with n ≤ 255: |G| ≤ 2^63, factors ≤ 2^16, so |H| ≤ 2^95, distances ≤ 2^97, Krum scores
/// ≤ 2^105; weights ≤ 2^16, so a Shapley value is ≤ 2^103 and their sum ≤ 2^111; the pot is a uint96.
/// Nothing here can overflow 256 bits, which is why the arithmetic is unchecked.
contract MultiKrumShapley is IScoringRule {
    uint256 private constant ONE = 1 << 16;
    uint256 private constant FULL_BPS = 10_000;

    /// @inheritdoc IScoringRule
    function checkParams(bytes32 params) public pure {
        uint256 value = uint256(params);
        if (value << 32 != 0 || value >> 240 > FULL_BPS / 2 || (value >> 224) & 0xffff < FULL_BPS) {
            revert BadRuleParams(params);
        }
    }

    /// @inheritdoc IScoringRule
    function score(bytes32 params, uint256 n, bytes calldata gram, uint256 pot)
        external
        pure
        returns (uint256[] memory weights, uint256[] memory shares, uint256 outliers)
    {
        checkParams(params);
        unchecked {
            int256[] memory g = _unpack(gram, n);
            uint256[] memory factors = _factors(g, n);
            outliers = _outliers(params, g, factors, n);
            weights = _weights(factors, outliers, n);
            shares = _shares(g, weights, outliers, n, pot);
        }
    }

    /// @dev The whole symmetric matrix, row by row: reading it is then one multiplication away.
    function _unpack(bytes calldata gram, uint256 n) private pure returns (int256[] memory g) {
        unchecked {
            g = new int256[](n * n);
            uint256 at;
            assembly ("memory-safe") {
                at := gram.offset
            }
            for (uint256 i = 0; i < n; ++i) {
                for (uint256 j = i; j < n; ++j) {
                    int256 value;
                    assembly ("memory-safe") {
                        value := sar(192, calldataload(at))
                        mstore(add(add(g, 32), shl(5, add(mul(i, n), j))), value)
                        mstore(add(add(g, 32), shl(5, add(mul(j, n), i))), value)
                    }
                    at += 8;
                }
                if (_at(g, i * n + i) < 0) revert NotAGramMatrix(i);
            }
        }
    }

    /// @dev What each update is multiplied by, of 2^16, to be no longer than the median.
    function _factors(int256[] memory g, uint256 n) private pure returns (uint256[] memory factors) {
        unchecked {
            factors = new uint256[](n);
            uint256[] memory sorted = new uint256[](n);
            for (uint256 i = 0; i < n; ++i) {
                uint256 norm = Math.sqrt(uint256(_at(g, i * n + i)));
                _put(factors, i, norm);
                _insert(sorted, i, norm);
            }
            uint256 median = _get(sorted, (n - 1) / 2);
            for (uint256 i = 0; i < n; ++i) {
                uint256 norm = _get(factors, i);
                _put(factors, i, norm <= median ? ONE : median * ONE / norm);
            }
        }
    }

    function _outliers(bytes32 params, int256[] memory g, uint256[] memory factors, uint256 n)
        private
        pure
        returns (uint256 outliers)
    {
        unchecked {
            if (n < 3) return 0;
            uint256 most = Math.min(n * (uint256(params) >> 240) / FULL_BPS, (n - 3) / 2);
            if (most == 0) return 0;
            uint256[] memory scores = _krum(g, factors, n, n - most - 2);
            uint256[] memory sorted = new uint256[](n);
            // A key is a score and its index, so that keys differ and sort as (score, index).
            for (uint256 i = 0; i < n; ++i) {
                _insert(sorted, i, _get(scores, i) << 8 | i);
            }
            uint256 limit = (_get(sorted, (n - 1) / 2) >> 8) * ((uint256(params) >> 224) & 0xffff);
            for (uint256 k = n - most; k < n; ++k) {
                uint256 key = _get(sorted, k);
                if ((key >> 8) * FULL_BPS > limit) outliers |= 1 << (key & 0xff);
            }
        }
    }

    /// @dev For each update the sum of squared distances to the `nearest` other ones.
    function _krum(int256[] memory g, uint256[] memory factors, uint256 n, uint256 nearest)
        private
        pure
        returns (uint256[] memory scores)
    {
        unchecked {
            uint256[] memory apart = _distances(g, factors, n);
            scores = new uint256[](n);
            uint256[] memory sorted = new uint256[](n - 1);
            for (uint256 i = 0; i < n; ++i) {
                uint256 count = 0;
                for (uint256 j = 0; j < n; ++j) {
                    if (j != i) _insert(sorted, count++, _get(apart, i * n + j));
                }
                uint256 sum = 0;
                for (uint256 k = 0; k < nearest; ++k) {
                    sum += _get(sorted, k);
                }
                _put(scores, i, sum);
            }
        }
    }

    function _distances(int256[] memory g, uint256[] memory factors, uint256 n)
        private
        pure
        returns (uint256[] memory apart)
    {
        unchecked {
            apart = new uint256[](n * n);
            uint256[] memory squares = new uint256[](n);
            for (uint256 i = 0; i < n; ++i) {
                int256 si = int256(_get(factors, i));
                uint256 square = uint256(si * si * _at(g, i * n + i));
                _put(squares, i, square);
                for (uint256 j = 0; j < i; ++j) {
                    int256 product = si * int256(_get(factors, j)) * _at(g, i * n + j);
                    int256 distance = int256(square + _get(squares, j)) - 2 * product;
                    uint256 found = distance > 0 ? uint256(distance) : 0;
                    _put(apart, i * n + j, found);
                    _put(apart, j * n + i, found);
                }
            }
        }
    }

    function _weights(uint256[] memory factors, uint256 outliers, uint256 n)
        private
        pure
        returns (uint256[] memory weights)
    {
        unchecked {
            weights = new uint256[](n);
            uint256 accepted = 0;
            uint256 sum = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((outliers >> i) & 1 != 0) continue;
                sum += _get(factors, i);
                ++accepted;
            }
            uint256 left = ONE;
            for (uint256 i = 0; i < n; ++i) {
                if ((outliers >> i) & 1 != 0) continue;
                uint256 weight = sum == 0 ? ONE / accepted : ONE * _get(factors, i) / sum;
                _put(weights, i, weight);
                left -= weight;
            }
            for (uint256 i = 0; left > 0; ++i) {
                if ((outliers >> i) & 1 != 0) continue;
                _put(weights, i, _get(weights, i) + 1);
                --left;
            }
        }
    }

    function _shares(
        int256[] memory g,
        uint256[] memory weights,
        uint256 outliers,
        uint256 n,
        uint256 pot
    ) private pure returns (uint256[] memory shares) {
        unchecked {
            shares = new uint256[](n);
            uint256 sum = 0;
            uint256 accepted = 0;
            uint256 first = n;
            uint256 largest = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((outliers >> i) & 1 != 0) continue;
                ++accepted;
                // An outlier's weight is zero, so that it needs no check here.
                int256 along = 0;
                for (uint256 j = 0; j < n; ++j) {
                    along += int256(_get(weights, j)) * _at(g, i * n + j);
                }
                uint256 value = along > 0 ? _get(weights, i) * uint256(along) : 0;
                _put(shares, i, value);
                sum += value;
                if (first == n || value > largest) (first, largest) = (i, value);
            }
            uint256 left = pot;
            for (uint256 i = 0; i < n; ++i) {
                if ((outliers >> i) & 1 != 0) continue;
                uint256 share = sum == 0 ? pot / accepted : pot * _get(shares, i) / sum;
                _put(shares, i, share);
                left -= share;
            }
            _put(shares, first, _get(shares, first) + left);
        }
    }

    /// @dev Insertion sort's step: puts `value` among the first `count` entries, which are sorted.
    function _insert(uint256[] memory sorted, uint256 count, uint256 value) private pure {
        assembly ("memory-safe") {
            let start := add(sorted, 32)
            let slot := add(start, shl(5, count))
            for {} gt(slot, start) {} {
                let before := mload(sub(slot, 32))
                if iszero(gt(before, value)) { break }
                mstore(slot, before)
                slot := sub(slot, 32)
            }
            mstore(slot, value)
        }
    }

    // Indices come from loops bounded by the lengths, so that bounds need no second check.

    function _at(int256[] memory values, uint256 i) private pure returns (int256 value) {
        assembly ("memory-safe") {
            value := mload(add(add(values, 32), shl(5, i)))
        }
    }

    function _get(uint256[] memory values, uint256 i) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := mload(add(add(values, 32), shl(5, i)))
        }
    }

    function _put(uint256[] memory values, uint256 i, uint256 value) private pure {
        assembly ("memory-safe") {
            mstore(add(add(values, 32), shl(5, i)), value)
        }
    }
}
