// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IScoringRule} from "../IScoringRule.sol";
import {at, put} from "./Words.sol";

/// @title A rule that pays by the root's row
/// @notice Who is kept, weighed and slashed is decided without the root's row, as if it were not there.
/// Then, of those who are kept, the ones that do not move along with the root's update lose weight and
/// share (as by the ReLU of FLTrust, Cao et al. 2021), but no stake, and the others share the pot by the
/// first-order Shapley values of the root's loss, w_i ⟨u_i, u_root⟩: what the step along u_i takes off
/// the loss that u_root descends.
/// @dev The root is set aside, and changes nothing, if more than half of those who are kept do not move
/// along with it: who contradicts a robust majority is not believed. Kept is who has weight.
///
/// Magnitudes: weights ≤ 2^16 and |G| ≤ 2^63, so values are ≤ 2^79; the pot is a uint96. Nothing
/// overflows, which is why the arithmetic is unchecked.
abstract contract RootedRule is IScoringRule {
    uint256 private constant ONE = 1 << 16;
    uint256 private constant ASIDE = 1 << 240;
    /// @dev Turned, the sign's bit makes signed words compare as unsigned ones do.
    uint256 private constant SIGN = 1 << 255;

    /// @inheritdoc IScoringRule
    function score(bytes32 params, uint256 n, uint256 root, bytes calldata gram, uint256 pot)
        external
        view
        returns (uint256[] memory scores)
    {
        if (root >= n) return _score(params, n, gram, pot);
        (bytes memory others, int256[] memory products) = _split(n, root, gram);
        // A call, so that the rule reads calldata whether there is a root or not.
        uint256[] memory plain = this.score(params, n - 1, n - 1, others, pot);
        bool believed = _share(plain, products, pot);
        scores = new uint256[](n);
        for (uint256 i = 0; i < n; ++i) {
            if (i != root) scores[i] = plain[i < root ? i : i - 1];
            else if (!believed) scores[i] = ASIDE;
        }
    }

    /// @dev Scores n updates, none of them the root's.
    function _score(bytes32 params, uint256 n, bytes calldata gram, uint256 pot)
        internal
        pure
        virtual
        returns (uint256[] memory scores);

    /// @dev The triangle without the root's row and column, and that row's products with the others.
    function _split(uint256 n, uint256 root, bytes calldata gram)
        private
        pure
        returns (bytes memory others, int256[] memory products)
    {
        unchecked {
            others = new bytes(4 * n * (n - 1));
            products = new int256[](n - 1);
            uint256 place;
            uint256 to;
            assembly ("memory-safe") {
                place := gram.offset
                to := add(others, 32)
            }
            for (uint256 i = 0; i < n; ++i) {
                for (uint256 j = i; j < n; ++j) {
                    if (i != root && j != root) {
                        assembly ("memory-safe") {
                            calldatacopy(to, place, 8)
                        }
                        to += 8;
                    } else if (i != j) {
                        int256 product;
                        assembly ("memory-safe") {
                            product := sar(192, calldataload(place))
                        }
                        products[i == root ? j - 1 : i] = product;
                    }
                    place += 8;
                }
            }
        }
    }

    /// @dev Splits weight and pot among those who move along with the root, unless the others outnumber them.
    /// Weight that rounding leaves goes to the first ones.
    function _share(uint256[] memory scores, int256[] memory products, uint256 pot)
        private
        pure
        returns (bool believed)
    {
        unchecked {
            uint256 n = scores.length;
            uint256 kept = 0;
            uint256 along = 0;
            uint256 whole = 0;
            for (uint256 i = 0; i < n; ++i) {
                uint256 weight = _weight(scores[i]);
                if (weight != 0) ++kept;
                if (weight == 0 || products[i] <= 0) products[i] = 0;
                else (along, whole) = (along + 1, whole + weight);
            }
            if (2 * along < kept) return false;

            uint256 left = ONE;
            for (uint256 i = 0; i < n; ++i) {
                uint256 weight = products[i] == 0 ? 0 : ONE * _weight(scores[i]) / whole;
                left -= weight;
                scores[i] = scores[i] & ASIDE | weight << 192;
            }
            int256[] memory values = new int256[](along);
            uint256 k = 0;
            for (uint256 i = 0; i < n; ++i) {
                if (products[i] == 0) continue;
                if (left > 0) (scores[i], left) = (scores[i] + (1 << 192), left - 1);
                put(values, k++, int256(_weight(scores[i])) * products[i]);
            }
            uint256[] memory shares = _divide(values, pot);
            k = 0;
            for (uint256 i = 0; i < n; ++i) {
                if (products[i] != 0) scores[i] |= at(shares, k++);
            }
            return true;
        }
    }

    /// @dev Shares of the pot for contributions, those below 0 nothing, others in proportion to the power
    /// 3/2 of what counts of them: half of the data make more than half of a contribution, so that dividing
    /// them among names would pay otherwise. What counts is up to twice the lower median of those above 0: a
    /// free-rider who replays how the model moved agrees with the others better than any of them does, and
    /// trainers of the sponsor's own, who know the root's update, could follow it. If more than half are
    /// not above 0, how far the others are tells chance: then all from the lower median on share alike.
    /// Units that rounding leaves go to the largest, the first of equal ones.
    ///
    /// With up to 256 contributions ≤ 2^95 what counts is ≤ 2^143, and its sum ≤ 2^151; the pot is a uint96.
    function _divide(int256[] memory contributions, uint256 pot)
        internal
        pure
        returns (uint256[] memory shares)
    {
        unchecked {
            uint256 n = contributions.length;
            shares = new uint256[](n);
            uint256 count = 0;
            for (uint256 i = 0; i < n; ++i) {
                int256 value = at(contributions, i);
                if (value > 0) put(shares, count++, uint256(value));
            }
            bool told = 2 * count >= n;
            uint256 middle;
            if (told) {
                (middle,) = _select(_start(shares), count, (count - 1) / 2);
            } else {
                for (uint256 i = 0; i < n; ++i) {
                    put(shares, i, uint256(at(contributions, i)) ^ SIGN);
                }
                (middle,) = _select(_start(shares), n, (n - 1) / 2);
            }
            uint256 total = 0;
            uint256 first = 0;
            uint256 largest = 0;
            for (uint256 i = 0; i < n; ++i) {
                int256 value = at(contributions, i);
                uint256 counts = 0;
                if (!told) {
                    if (uint256(value) ^ SIGN >= middle) counts = 1;
                } else if (value > 0) {
                    counts = Math.min(uint256(value), 2 * middle);
                    counts *= Math.sqrt(counts);
                }
                put(shares, i, counts);
                total += counts;
                if (counts > largest) (first, largest) = (i, counts);
            }
            uint256 left = pot;
            for (uint256 i = 0; i < n; ++i) {
                uint256 share = pot * at(shares, i) / total;
                put(shares, i, share);
                left -= share;
            }
            put(shares, first, at(shares, first) + left);
        }
    }

    function _weight(uint256 record) private pure returns (uint256) {
        return (record >> 192) & type(uint32).max;
    }

    /// @dev Orders `count` words from `start` on so that word `k` is what sorting would put there,
    /// none before it is larger and none after it smaller. Quickselect (Hoare 1961), and insertion
    /// where few words are left. Pivots follow from a hash of the words: nobody who cannot choose them
    /// all can make it slow, so that the largest round fits into a transaction.
    /// @return found word `k`
    /// @return before_ sum of the `k` words before it
    function _select(uint256 start, uint256 count, uint256 k)
        internal
        pure
        returns (uint256 found, uint256 before_)
    {
        assembly ("memory-safe") {
            let low := start
            let high := add(start, shl(5, sub(count, 1)))
            let wanted := add(start, shl(5, k))
            if gt(count, 16) {
                let seed := keccak256(start, shl(5, count))
                for {} gt(sub(high, low), 480) {} {
                    let size := add(shr(5, sub(high, low)), 1)
                    let pivot := mload(add(low, shl(5, mod(seed, size))))
                    seed := div(seed, size)
                    let i := low
                    let j := high
                    for {} iszero(gt(i, j)) {} {
                        let left := mload(i)
                        for {} lt(left, pivot) {} {
                            i := add(i, 32)
                            left := mload(i)
                        }
                        let right := mload(j)
                        for {} gt(right, pivot) {} {
                            j := sub(j, 32)
                            right := mload(j)
                        }
                        if iszero(gt(i, j)) {
                            mstore(i, right)
                            mstore(j, left)
                            i := add(i, 32)
                            j := sub(j, 32)
                        }
                    }
                    // Words between j and i equal the pivot.
                    switch gt(wanted, j)
                    case 0 { high := j }
                    default {
                        low := i
                        if lt(wanted, i) {
                            low := wanted
                            high := wanted
                        }
                    }
                }
            }
            // A zero before the first word stops each insertion there.
            let edge := sub(low, 32)
            let kept := mload(edge)
            mstore(edge, 0)
            for { let next := low } lt(next, high) {} {
                let slot := next
                next := add(next, 32)
                let value := mload(next)
                let before := mload(slot)
                for {} gt(before, value) {} {
                    mstore(add(slot, 32), before)
                    slot := sub(slot, 32)
                    before := mload(slot)
                }
                mstore(add(slot, 32), value)
            }
            mstore(edge, kept)
            found := mload(wanted)
            for {} lt(start, wanted) { start := add(start, 32) } {
                before_ := add(before_, mload(start))
            }
        }
    }

    function _start(uint256[] memory values) internal pure returns (uint256 start) {
        assembly ("memory-safe") {
            start := add(values, 32)
        }
    }
}
