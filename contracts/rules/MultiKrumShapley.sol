// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IScoringRule} from "../IScoringRule.sol";
import {RootedRule} from "./RootedRule.sol";
import {at, put} from "./Words.sol";

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
contract MultiKrumShapley is RootedRule {
    uint256 private constant ONE = 1 << 16;
    uint256 private constant FULL_BPS = 10_000;
    /// @dev 128 updates take 9M gas; a transaction may use 16.7M.
    uint256 private constant MOST_SETTLED = 128;

    /// What is known of the round that is scored; `gram` is where its matrix begins in the calldata.
    /// One pointer leaves the stack to the loops, which saves a tenth of the gas.
    struct Round {
        uint256 params;
        uint256 n;
        uint256 gram;
        uint256 pot;
        uint256 outliers;
        uint256[] factors;
        uint256[] squares;
        uint256[] weights;
    }

    /// @inheritdoc IScoringRule
    function checkParams(bytes32 params, uint256 capacity) external pure {
        if (capacity > MOST_SETTLED) revert TooManyUpdates(capacity, MOST_SETTLED);
        _check(params);
    }

    function _check(bytes32 params) private pure {
        uint256 value = uint256(params);
        if (value << 32 != 0 || value >> 240 > FULL_BPS / 2 || (value >> 224) & 0xffff < FULL_BPS) {
            revert BadRuleParams(params);
        }
    }

    /// @inheritdoc RootedRule
    function _score(bytes32 params, uint256 n, bytes calldata gram, uint256 pot)
        internal
        pure
        override
        returns (uint256[] memory scores)
    {
        _check(params);
        Round memory r;
        r.n = n;
        r.pot = pot;
        r.params = uint256(params);
        uint256 cursor;
        assembly ("memory-safe") {
            cursor := gram.offset
        }
        r.gram = cursor;
        unchecked {
            _clip(r);
            _findOutliers(r);
            _weigh(r);
            scores = _share(r);
        }
    }

    /// @dev Finds what each update is multiplied by, of 2^16, to be no longer than the median, and
    /// the squared norm it then has, of 2^32.
    function _clip(Round memory r) private pure {
        unchecked {
            uint256 n = r.n;
            uint256[] memory factors = new uint256[](n);
            uint256[] memory squares = new uint256[](n);
            uint256 cursor = r.gram;
            for (uint256 i = 0; i < n; ++i) {
                int256 square;
                assembly ("memory-safe") {
                    square := sar(192, calldataload(cursor))
                }
                if (square < 0) revert NotAGramMatrix(i);
                cursor += 8 * (n - i);
                put(squares, i, uint256(square));
                put(factors, i, uint256(square));
            }
            // Roots keep the order, so this is the square of the median norm.
            (uint256 middle,) = _select(_start(factors), n, (n - 1) / 2);
            uint256 median = Math.sqrt(middle);
            for (uint256 i = 0; i < n; ++i) {
                uint256 square = at(squares, i);
                uint256 factor = square > middle ? median * ONE / Math.sqrt(square) : ONE;
                put(factors, i, factor);
                put(squares, i, factor * factor * square);
            }
            r.factors = factors;
            r.squares = squares;
        }
    }

    function _findOutliers(Round memory r) private pure {
        unchecked {
            uint256 n = r.n;
            if (n < 3) return;
            uint256 most = Math.min(n * (r.params >> 240) / FULL_BPS, (n - 3) / 2);
            if (most == 0) return;
            uint256[] memory keys = new uint256[](n);
            uint256 row = _start(_distances(r));
            for (uint256 i = 0; i < n; ++i) {
                (, uint256 sum) = _select(row, n - 1, n - most - 2);
                put(keys, i, sum << 8 | i);
                row += 32 * (n - 1);
            }
            _select(_start(keys), n, n - most);
            // The largest ones stay where they are; the median is among the others.
            (uint256 median,) = _select(_start(keys), n - most, (n - 1) / 2);
            uint256 limit = (median >> 8) * ((r.params >> 224) & 0xffff);
            uint256 outliers = 0;
            for (uint256 k = n - most; k < n; ++k) {
                uint256 key = at(keys, k);
                if ((key >> 8) * FULL_BPS <= limit) continue;
                outliers |= 1 << (key & 0xff);
                // so that it weighs nothing
                put(r.factors, key & 0xff, 0);
            }
            r.outliers = outliers;
        }
    }

    /// @dev Squared distances of the clipped updates: n rows, each to the n − 1 other ones.
    function _distances(Round memory r) private pure returns (uint256[] memory apart) {
        uint256[] memory factors = r.factors;
        uint256[] memory squares = r.squares;
        uint256 cursor = r.gram;
        apart = new uint256[](r.n * (r.n - 1));
        assembly ("memory-safe") {
            let toSquare := sub(squares, factors)
            let width := shl(5, sub(mload(factors), 1))
            let end := add(factors, add(width, 32))
            let across := add(apart, 32)
            let down := add(across, width)
            for { let i := add(factors, 32) } lt(i, end) { i := add(i, 32) } {
                let twice := shl(1, mload(i))
                let square := mload(add(i, toSquare))
                let place := down
                for { let j := i } lt(j, end) {} {
                    j := add(j, 32)
                    cursor := add(cursor, 8)
                    let distance :=
                        sub(
                            add(square, mload(add(j, toSquare))),
                            mul(mul(twice, mload(j)), sar(192, calldataload(cursor)))
                        )
                    // A matrix that is none of Gram's could make it negative.
                    distance := mul(distance, sgt(distance, 0))
                    mstore(across, distance)
                    mstore(place, distance)
                    across := add(across, 32)
                    place := add(place, width)
                }
                cursor := add(cursor, 8)
                down := add(down, add(width, 32))
                across := sub(down, width)
            }
        }
    }

    /// @dev Splits 2^16 among the accepted updates in proportion to their factors.
    function _weigh(Round memory r) private pure {
        unchecked {
            uint256 n = r.n;
            uint256[] memory weights = r.factors;
            uint256 sum = 0;
            for (uint256 i = 0; i < n; ++i) {
                sum += at(weights, i);
            }
            if (sum == 0) {
                // No norm but the median's, which is 0: all accepted weigh the same.
                for (uint256 i = 0; i < n; ++i) {
                    if ((r.outliers >> i) & 1 == 0) put(weights, i, 1);
                    sum += at(weights, i);
                }
            }
            uint256 left = ONE;
            for (uint256 i = 0; i < n; ++i) {
                uint256 weight = ONE * at(weights, i) / sum;
                put(weights, i, weight);
                left -= weight;
            }
            for (uint256 i = 0; left > 0; ++i) {
                if ((r.outliers >> i) & 1 != 0) continue;
                put(weights, i, at(weights, i) + 1);
                --left;
            }
            r.weights = weights;
        }
    }

    /// @dev Splits the pot among the accepted updates in proportion to their Shapley values, and puts
    /// everything into one word each.
    function _share(Round memory r) private pure returns (uint256[] memory scores) {
        scores = _values(r);
        unchecked {
            uint256 n = r.n;
            uint256 sum = 0;
            uint256 largest = 0;
            uint256 first = n;
            for (uint256 i = 0; i < n; ++i) {
                uint256 value = at(scores, i);
                sum += value;
                if (value > largest) (first, largest) = (i, value);
            }
            if (sum == 0) {
                // Nobody contributed: all accepted share alike.
                for (uint256 i = n; i > 0; --i) {
                    if ((r.outliers >> (i - 1)) & 1 != 0) continue;
                    put(scores, i - 1, 1);
                    first = i - 1;
                    ++sum;
                }
            }
            uint256 pot = r.pot;
            uint256 left = pot;
            for (uint256 i = 0; i < n; ++i) {
                uint256 share = pot * at(scores, i) / sum;
                left -= share;
                share |= at(r.weights, i) << 192 | ((r.outliers >> i) & 1) << 240;
                put(scores, i, share);
            }
            // The share is the lowest part of its word.
            put(scores, first, at(scores, first) + left);
        }
    }

    /// @dev max(0, w_i Σ_j w_j G_ij) for each i, each entry of the triangle read once. An outlier's is
    /// 0, as its weight is.
    function _values(Round memory r) private pure returns (uint256[] memory values) {
        uint256[] memory weights = r.weights;
        uint256 cursor = r.gram;
        values = new uint256[](r.n);
        assembly ("memory-safe") {
            let toValue := sub(values, weights)
            let end := add(weights, shl(5, mload(weights)))
            for { let i := add(weights, 32) } iszero(gt(i, end)) { i := add(i, 32) } {
                let weight := mload(i)
                let along :=
                    add(mload(add(i, toValue)), mul(weight, sar(192, calldataload(cursor))))
                for { let j := i } lt(j, end) {} {
                    j := add(j, 32)
                    cursor := add(cursor, 8)
                    let entry := sar(192, calldataload(cursor))
                    along := add(along, mul(mload(j), entry))
                    let other := add(j, toValue)
                    mstore(other, add(mload(other), mul(weight, entry)))
                }
                cursor := add(cursor, 8)
                mstore(add(i, toValue), mul(mul(weight, along), sgt(along, 0)))
            }
        }
    }
}
