// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IScoringRule} from "../IScoringRule.sol";
import {RootedRule} from "./RootedRule.sol";
import {Spectrum} from "./Spectrum.sol";
import {at, insert, put} from "./Words.sol";

/// @title Peel and Shapley shares
/// @notice Groups of updates that stand out are peeled off by a test that needs no guess of the number
/// of attackers; the rest, without norms far beyond the others', is averaged and paid by what each adds
/// along the others.
/// @dev No parameters: 32 zero bytes. `aggregator/peel.py` derives the test; in short: of n honest
/// updates along independent Gaussian directions, whatever their mean and covariance, the leading
/// eigenvector of the centred Gram matrix is uniform on a sphere, and T, the part of it that the best
/// split into two groups explains, exceeds a bound that follows from n and a level alone. Three vectors
/// are tested: that eigenvector for cosines, the logarithms of the norms, and those of the distances
/// from the mean direction. What stands out most is peeled off while it is significant, a minority, and
/// leaves more than half, up to four times. A group beyond the bound at 10^-3 has no weight and no
/// share; one beyond that at 10^-5 is an outlier, too, and loses stake.
///
/// Copies of one update come first, which are seen however few they are: the trailing eigenvector lies
/// on them alone.
///
/// Shares follow the Shapley values of v(S) = Σ_{i≠j∈S} w_i w_j G_ij, which are w_i Σ_{j≠i} w_j G_ij:
/// an update is paid for its agreement with others, not for its own length, as far as it counts
/// (`_divide`).
///
/// Magnitudes, with n ≤ 128: |G| ≤ 2^63, norms < 2^48; what is split has entries ≤ 2^32, less their mean,
/// times n ≤ 2^40, so prefix sums are ≤ 2^47, their squares times n ≤ 2^101, times 2^32 ≤ 2^133. Norms are
/// 0 or ≥ 2^16, so that fold changes are ≤ 2^48 and a bound < 2^240. Weights sum to 2^16, so values
/// are ≤ 2^95; the pot is a uint96. Nothing overflows, which is why the arithmetic is unchecked.
contract PeelShapley is RootedRule {
    uint256 private constant ONE = 1 << 16;
    uint256 private constant WHOLE = 1 << 32;
    uint256 private constant FEWEST = 5;
    uint256 private constant MOST = 128;
    /// @dev 64 updates take 4M gas, and 2M more for each group that is peeled off; a transaction may use
    /// 16.7M.
    uint256 private constant MOST_SETTLED = 64;
    /// @dev So many groups are peeled off at most, or attackers could make a round too dear to settle.
    uint256 private constant GROUPS = 4;
    /// @dev Updates among which copies are looked for: fewer prove nothing, more would cost too much gas.
    uint256 private constant COPIES_FROM = 6;
    uint256 private constant COPIES_TO = 32;
    /// @dev Some two updates must be so many times nearer than two are on average before they are looked for.
    uint256 private constant NEARER = 3;
    /// @dev Of the trailing eigenvector a copy has one part in so many at least, and all who are none have
    /// together less than one in so many, or the group is not set aside; or not slashed.
    uint256 private constant PART = 1 << 10;
    uint256 private constant LEAK = 1 << 14;
    uint256 private constant LEAK_SLASHED = 1 << 17;

    /// @dev For 5, 6, ... 128 updates how far below 1 a T, in 2^-32, may lie to be significant at 10^-3
    /// and at 10^-5, a uint32 each. A test derives them again.
    bytes private constant BOUNDS = hex"005bb28e000441e2015e9e520023170d030d44cd007c00540530c14d011ed8d10791194d0208ef160a05600f032d7698"
        hex"0c738c7d047ce29f0ecc7bd705e8c0d7110831840765231f1323216708e8ce50151c67870a6ce9b216f4a82e0bec8b6e"
        hex"18ad5e440d6448da1a486f580ed1d7fb1bc7eaf91033c4711d2de4d0118935ca1e7c5f2312d1c4081fb53f6d140d5747"
        hex"20da4907153c0fd221ed1b7d165e349322ef32fb1774263323e1e9f3187e55bf24c67b5b197d3de2259e05251a715e00"
        hex"26698ad31b5b36be2729f7e61c3b479027e022311d120d09288ccc021ddfffbd2930a6131ea5938429cc514d1f633713"
        hex"2a60606a201953bf2aed595820c84d762b73b686217082c92bf3e80a22124d092c6e54a322ae007d2ce35aa02343ec90"
        hex"2d5350b823d45c0d2dbe86ba245f95612e25463824e5dad32e87d31d25676ac32ee66c2d25e47fe52f414b7d265d517c"
        hex"2f98a6e326d2138f2fecb04c2742f71d303d961e27b02a51308b837b2819d8ac30d6a08e28802b34311f12c828e3489f"
        hex"3164fd162943557231a8801c29a0742b31e9ba5d29fac5623228c8682a5267e43265c5022aa778d632a0c9432afa13c8"
        hex"32d9ecbb2b4a52d83311458c2b984ec03346e8882be41ef3337ae9482c2dd9ae33ad5a412c75940933de4cda2cbb620d"
        hex"340dd17e2cff56c3343bf7af2d4184423468ce142d81fbbc349462892dc0cd9134bec22b2dfe095534e7f9652e39bddf"
        hex"351013fd2e73f95435371d1d2eacc92f355d1f5c2ee43a4c358224cb2f1a58f235a636f72f4f30da35c95ef82f82cd33"
        hex"35eba5722fb538b2360d12a12fe67d91362dae5b3016a598364d80193045ba25366c8efa3073c42e368ae1ca30a0cc49"
        hex"36a87f0430ccdab036c56cdb30f7f74536e1b13a3122299936fd51c9314b78ed371853f13173ec373732bce0319b8a26"
        hex"374c918b31c259253765d6b131e85f61377e90de320da2c73796c46f3232290a37ae75923255f7a637c5a84a327913e2"
        hex"37dc6071329b82d137f2a1b932bd495938086faf32de6c2d381dcdbd32feefd93832bf2a331ed8bc3847471e333e2b0c"
        hex"385b68a2335ceadc386f26a1337b1c17388283eb3398c2863895833633b5e1d238a8271c33d27d8138ba722133ee98fb"
        hex"38cc66b2340a378c38de072434255c6238ef55b934400a913900549c345a4511391105e834740ec339216ba3348d6a70"
        hex"393187c134a65ac939415c2834bee2693950eaab34d703d53960350d34eec181396f3d0435061dc9397e0436351d1af8"
        hex"398c8c3d3533bb49399ad6a4354a00e239a8e4eb355fedda39b6b8833575843839c452d4358ac5f239d1b53b359fb4f2"
        hex"39dee10735b4531039ebd78035c8a21839f899e235dca3ca3a05296035f059d5";

    /// @dev What stays the same while groups are peeled off; one place on the stack instead of three.
    /// Nobody knows the seed before all have committed, so that nobody can hide from the start.
    struct Round {
        bytes32 seed;
        uint256 n;
        int256[] g;
        int256[] norms; // in 2^-16 steps
    }

    /// @inheritdoc IScoringRule
    function checkParams(bytes32 params, uint256 capacity) external pure {
        if (capacity > MOST_SETTLED) revert TooManyUpdates(capacity, MOST_SETTLED);
        if (params != 0) revert BadRuleParams(params);
    }

    /// @inheritdoc RootedRule
    function _score(bytes32 params, uint256 n, bytes calldata gram, uint256 pot)
        internal
        pure
        override
        returns (uint256[] memory scores)
    {
        if (params != 0) revert BadRuleParams(params);
        if (n > MOST) revert TooManyUpdates(n, MOST);
        unchecked {
            int256[] memory g = _unpack(gram, n);
            int256[] memory norms = new int256[](n);
            for (uint256 i = 0; i < n; ++i) {
                put(norms, i, int256(Math.sqrt(uint256(at(g, i * n + i)) << 32)));
            }
            (uint256 kept, uint256 outliers) = _peel(Round(keccak256(gram), n, g, norms));
            if (kept == 0) kept = (1 << n) - 1;
            uint256[] memory weights = _weights(norms, kept, n);
            uint256[] memory shares = _divide(_agreement(g, weights, kept), pot);
            scores = new uint256[](n);
            uint256 count = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 != 0) {
                    put(scores, i, at(weights, i) << 192 | at(shares, count++));
                } else {
                    put(scores, i, ((outliers >> i) & 1) << 240);
                }
            }
        }
    }

    /// @dev The whole symmetric matrix, row by row: reading it is then one multiplication away.
    function _unpack(bytes calldata gram, uint256 n) private pure returns (int256[] memory g) {
        unchecked {
            g = new int256[](n * n);
            uint256 word;
            assembly ("memory-safe") {
                word := gram.offset
            }
            for (uint256 i = 0; i < n; ++i) {
                assembly ("memory-safe") {
                    // From the diagonal to the right, and from there down.
                    let right := add(add(g, 32), shl(5, mul(add(n, 1), i)))
                    let down := right
                    let last := add(right, shl(5, sub(n, i)))
                    for {} lt(right, last) { right := add(right, 32) } {
                        let value := sar(192, calldataload(word))
                        mstore(right, value)
                        mstore(down, value)
                        down := add(down, shl(5, n))
                        word := add(word, 8)
                    }
                }
                if (at(g, i * n + i) < 0) revert NotAGramMatrix(i);
            }
        }
    }

    /// @dev Bitmaps of who stays (nobody, if all updates are zero) and who is an outlier.
    function _peel(Round memory round) private pure returns (uint256 kept, uint256 outliers) {
        unchecked {
            uint256 whole = 0;
            for (uint256 i = 0; i < round.n; ++i) {
                if (at(round.norms, i) == 0) continue;
                kept |= 1 << i;
                ++whole;
            }
            uint256 left = whole;
            for (uint256 peeled = 0; peeled < GROUPS && left >= FEWEST; ++peeled) {
                int256[] memory index = _among(kept, left);
                int256[] memory packed = Spectrum.cosines(round.g, round.norms, index);
                bool searched = left >= COPIES_FROM && left <= COPIES_TO;
                int256 nearest = searched ? Spectrum.nearest(packed, left) : int256(0);
                int256[] memory distances = Spectrum.centre(packed, left);
                uint256 group = 0;
                uint256 size = 0;
                bool slashed = false;
                if (searched && _isNear(nearest, distances)) {
                    (group, size, slashed) =
                        _copies(Spectrum.trailing(packed, round.seed, left), index);
                }
                if (!slashed) {
                    (uint256 other, uint256 others, bool theirs) =
                        _standOut(round, index, packed, distances);
                    // Copies that stand out as well may lose their stake for that.
                    if (size == 0 || group == other) {
                        (group, size, slashed) = (other, others, theirs);
                    }
                }
                if (size == 0 || 2 * (left - size) <= whole) break;
                kept &= ~group;
                if (slashed) outliers |= group;
                left -= size;
            }
        }
    }

    /// @dev Which updates are left, `k` of them.
    function _among(uint256 kept, uint256 k) private pure returns (int256[] memory index) {
        unchecked {
            index = new int256[](k);
            uint256 count = 0;
            for (uint256 i = 0; count < k; ++i) {
                if ((kept >> i) & 1 != 0) put(index, count++, int256(i));
            }
        }
    }

    /// @dev Whether two updates are near, by the largest cosine and the distances from the mean direction,
    /// times k², of which the average is half the average distance of any two, an update and itself too.
    function _isNear(int256 cosine, int256[] memory distances) private pure returns (bool) {
        unchecked {
            uint256 k = distances.length;
            uint256 sum = 0;
            for (uint256 i = 0; i < k; ++i) {
                sum += uint256(at(distances, i));
            }
            return NEARER * uint256(Spectrum.UNIT - cosine) * (k - 1) * k * k <= sum;
        }
    }

    /// @dev The group that nearly all of the trailing eigenvector is in, and whether it is slashed; nobody
    /// where too much of it leaks out, or the group is no minority.
    function _copies(uint256[] memory parts, int256[] memory index)
        private
        pure
        returns (uint256 group, uint256 size, bool slashed)
    {
        unchecked {
            uint256 k = parts.length;
            uint256 total = 0;
            for (uint256 i = 0; i < k; ++i) {
                total += parts[i];
            }
            uint256 outside = 0;
            for (uint256 i = 0; i < k; ++i) {
                if (parts[i] * PART < total) {
                    outside += parts[i];
                } else {
                    group |= 1 << uint256(at(index, i));
                    ++size;
                }
            }
            if (2 * size >= k || outside * LEAK >= total) return (0, 0, false);
            slashed = outside * LEAK_SLASHED < total;
        }
    }

    function _bounds(uint256 left) private pure returns (uint256 aside, uint256 slashed) {
        bytes memory table = BOUNDS;
        assembly ("memory-safe") {
            let word := mload(add(add(table, 32), shl(3, sub(left, FEWEST))))
            aside := shr(224, word)
            slashed := and(shr(192, word), 0xffffffff)
        }
    }

    /// @dev The group that stands out most by the three vectors, and whether it is slashed; nobody where
    /// that is not significant.
    function _standOut(
        Round memory round,
        int256[] memory index,
        int256[] memory packed,
        int256[] memory distances
    ) private pure returns (uint256 group, uint256 size, bool slashed) {
        unchecked {
            uint256 k = index.length;
            int256[] memory lengths = new int256[](k);
            for (uint256 i = 0; i < k; ++i) {
                uint256 row = uint256(at(index, i));
                put(lengths, i, _log2(uint256(at(round.g, row * (round.n + 1)))));
                put(distances, i, _log2(uint256(at(distances, i))));
            }
            uint256 most;
            (most, group, size) = _splitOff(lengths, index, true);
            (uint256 t, uint256 other, uint256 others) =
                _splitOff(Spectrum.leading(packed, round.seed, k), index, false);
            if (t > most) (most, group, size) = (t, other, others);
            (t, other, others) = _splitOff(distances, index, true);
            if (t > most) (most, group, size) = (t, other, others);
            (uint256 aside, uint256 bound) = _bounds(k);
            if (most <= WHOLE - aside) return (0, 0, false);
            slashed = most > WHOLE - bound;
        }
    }

    /// @dev T of the best split into a low and a high group, and the smaller of them (of equal ones
    /// the lower) as a bitmap of updates; with `longer` only a group of larger values counts.
    function _splitOff(int256[] memory values, int256[] memory index, bool longer)
        private
        pure
        returns (uint256 t, uint256 group, uint256 size)
    {
        unchecked {
            uint256 k = values.length;
            int256 total = 0;
            for (uint256 i = 0; i < k; ++i) {
                total += at(values, i);
            }
            // A key is a value less the mean, times k, and its position: keys differ and keep the order.
            int256[] memory sorted = new int256[](k);
            uint256 spread = 0;
            for (uint256 i = 0; i < k; ++i) {
                int256 value = int256(k) * at(values, i) - total;
                spread += uint256(value * value);
                insert(sorted, i, value << 8 | int256(i));
            }
            if (spread == 0) return (0, 0, 0);
            int256 below = 0;
            for (uint256 low = 1; low < k; ++low) {
                below += at(sorted, low - 1) >> 8;
                uint256 explained = uint256(below * below) * k / (low * (k - low));
                if (explained > t || low == 1) (t, size) = (explained, low);
            }
            t = t * WHOLE / spread;
            bool upper = size > k - size;
            if (longer && !upper) return (0, 0, 0);
            uint256 from = upper ? size : 0;
            if (upper) size = k - size;
            for (uint256 i = from; i < from + size; ++i) {
                group |= 1 << uint256(at(index, uint256(at(sorted, i)) & 0xff));
            }
        }
    }

    /// @dev Shortens what is kept to the lower median norm times the fourth power of the lower median
    /// fold change from it, and divides 2^16 by the factors; what is left goes to the first ones.
    function _weights(int256[] memory norms, uint256 kept, uint256 n)
        private
        pure
        returns (uint256[] memory weights)
    {
        unchecked {
            uint256 bound = _normBound(norms, kept, n);
            weights = new uint256[](n);
            uint256 sum = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                uint256 norm = uint256(at(norms, i));
                weights[i] = norm <= bound ? ONE : bound * ONE / norm;
                sum += weights[i];
            }
            uint256 left = ONE;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                weights[i] = ONE * weights[i] / sum;
                left -= weights[i];
            }
            for (uint256 i = 0; left > 0; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                ++weights[i];
                --left;
            }
        }
    }

    function _normBound(int256[] memory norms, uint256 kept, uint256 n)
        private
        pure
        returns (uint256)
    {
        unchecked {
            int256[] memory sorted = new int256[](n);
            uint256 count = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 != 0) insert(sorted, count++, at(norms, i));
            }
            uint256 middle = uint256(at(sorted, (count - 1) / 2));
            if (middle == 0) return type(uint32).max;
            count = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                uint256 norm = uint256(at(norms, i));
                uint256 fold = norm > middle ? norm * ONE / middle : middle * ONE / norm;
                insert(sorted, count++, int256(fold));
            }
            uint256 change = uint256(at(sorted, (count - 1) / 2));
            return middle * change * change * change * change >> 64;
        }
    }

    /// @dev The Shapley values of who is kept, one after the other.
    function _agreement(int256[] memory g, uint256[] memory weights, uint256 kept)
        private
        pure
        returns (int256[] memory values)
    {
        unchecked {
            uint256 n = weights.length;
            values = new int256[](n);
            uint256 count = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                int256 weight = int256(at(weights, i));
                // Who is not kept has no weight, so that it needs no check.
                int256 along = _product(g, weights, i * n) - weight * at(g, i * n + i);
                put(values, count++, weight * along);
            }
            assembly ("memory-safe") {
                mstore(values, count)
            }
        }
    }

    /// @dev The weights times as many entries of the matrix from `start` on.
    function _product(int256[] memory g, uint256[] memory weights, uint256 start)
        private
        pure
        returns (int256 sum)
    {
        assembly ("memory-safe") {
            let weight := add(weights, 32)
            let away := sub(add(add(g, 32), shl(5, start)), weight)
            for { let last := add(weight, shl(5, mload(weights))) } lt(weight, last) {
                weight := add(weight, 32)
            } {
                sum := add(sum, mul(mload(weight), mload(add(weight, away))))
            }
        }
    }

    /// @dev The logarithm of a number from 1 to 2^128, in 2^-12, rounded down.
    function _log2(uint256 value) private pure returns (int256 found) {
        assembly ("memory-safe") {
            let whole := shl(7, gt(value, 0xffffffffffffffffffffffffffffffff))
            whole := or(whole, shl(6, gt(shr(whole, value), 0xffffffffffffffff)))
            whole := or(whole, shl(5, gt(shr(whole, value), 0xffffffff)))
            whole := or(whole, shl(4, gt(shr(whole, value), 0xffff)))
            whole := or(whole, shl(3, gt(shr(whole, value), 0xff)))
            whole := or(whole, shl(2, gt(shr(whole, value), 0xf)))
            whole := or(whole, shl(1, gt(shr(whole, value), 3)))
            whole := or(whole, gt(shr(whole, value), 1))
            let mantissa := shl(sub(127, whole), value)
            for { let bit := 0 } lt(bit, 12) { bit := add(bit, 1) } {
                mantissa := shr(127, mul(mantissa, mantissa))
                let carry := shr(128, mantissa)
                whole := or(shl(1, whole), carry)
                mantissa := shr(carry, mantissa)
            }
            found := whole
        }
    }
}
