// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGramVerifier} from "./IGramVerifier.sol";

/// @title Gram proof verifier
/// @notice Accepts a matrix exactly when 480 bytes prove that it holds the inner products of the
/// committed updates. Nobody is trusted; the statement and the argument are in docs/gram-proof.md.
/// @dev Notation. r is the order of BLS12-381's groups, [x]_1 = x·(generator of G1), H a point of G1
/// hashed from a fixed tag. A is the polynomial Σ ρ_i u_i + c·m of the updates u_i and a random mask
/// m; S is the one polynomial for which A(X)·A(1/X) = t + X·S(X) + X⁻¹·S(1/X), t = <A, A>.
///
/// Proof: [m]_1 + μH ‖ v = <m, m> ‖ [S]_1 + σH ‖ a0 ‖ a1 ‖ s0 ‖ s1 ‖ β ‖ W. Checked are
///
///   1. a0² + a1² + a0·a1·s = t + s·s0 + (s² − 2)·s1   for t = Σ_ij ρ_i ρ_j G_ij + c²v,
///      the norm's identity modulo X² − sX + 1, where A is a0 + a1·X and S is s0 + s1·X;
///   2. e(C − βH − (a0 + γ·s0)[1]_1 − (a1 + γ·s1)[τ]_1, [1]_2) · e(W, [sτ − τ² − 1]_2) = 1
///      for C = Σ ρ_i C_i + c[m] + γ[S]: A and S do leave these rests.
///
/// ρ_i, c, s and γ are hashes of all that came before. Points outside the subgroup, off the curve or
/// with coordinates beyond the field are refused by the precompiles of EIP-2537, identities and
/// scalars from r on by this contract. G1 points are kept in three words, G2 points in six.
contract GramVerifier is IGramVerifier {
    /// @notice The points given are not powers of one secret, or the chain lacks EIP-2537.
    error BadReferenceString();

    uint256 private constant R = 0x73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001;
    bytes32 private constant TAG = "TRIBUTE-GRAM-V1";

    uint256 private constant G1_MSM = 0x0c;
    uint256 private constant G2_ADD = 0x0d;
    uint256 private constant G2_MSM = 0x0e;
    uint256 private constant PAIRING = 0x0f;

    /// @dev Bytes of a point in calldata, of one in the precompiles' encoding, of an MSM's term.
    uint256 private constant POINT = 96;
    uint256 private constant PADDED = 128;
    uint256 private constant TERM = 160;

    /// @dev Where things stand in a proof.
    uint256 private constant MASK = 0;
    uint256 private constant MASK_NORM = 96;
    uint256 private constant SHIFT = 128;
    uint256 private constant A0 = 224;
    uint256 private constant A1 = 256;
    uint256 private constant S0 = 288;
    uint256 private constant S1 = 320;
    uint256 private constant BLINDING = 352;
    uint256 private constant QUOTIENT = 384;
    uint256 private constant PROOF = 480;

    /// @dev Generator of G1.
    bytes32 private constant ONE_1A =
        0x17f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac58;
    bytes32 private constant ONE_1B =
        0x6c55e83ff97a1aeffb3af00adb22c6bb08b3f481e3aaa0f1a09e30ed741d8ae4;
    bytes32 private constant ONE_1C =
        0xfcf5e095d5d00af600db18cb2c04b3edd03cc744a2888ae40caa232946c5e7e1;

    /// @dev Generator of G2.
    bytes32 private constant ONE_2A =
        0x024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d177;
    bytes32 private constant ONE_2B =
        0x0bac0326a805bbefd48056c8c121bdb813e02b6052719f607dacd3a088274f65;
    bytes32 private constant ONE_2C =
        0x596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e;
    bytes32 private constant ONE_2D =
        0x0ce5d527727d6e118cc9cdc6da2e351aadfd9baa8cbdd3a76d429a695160d12c;
    bytes32 private constant ONE_2E =
        0x923ac9cc3baca289e193548608b828010606c4a02ea734cc32acd2b02bc28b99;
    bytes32 private constant ONE_2F =
        0xcb3e287e85a763af267492ab572e99ab3f370d275cec1da1aaa9075ff05f79be;

    /// @dev H: "TRIBUTE-KZG-BLINDING-V1" hashed to the curve by BLS12381G1_XMD:SHA-256_SSWU_RO_
    /// under itself as the domain.
    bytes32 private constant BLIND_A =
        0x06830f5a53bbdb70bdf0d12ad2526e2f12c1a5a2bb1f09bcda70595a9dca5bc1;
    bytes32 private constant BLIND_B =
        0x2b080c9d6a15fcf994a169b127efd96a043049b82500494b87dfe24f05e7dfba;
    bytes32 private constant BLIND_C =
        0x7dc5667c6a5149ccab0e6c017f25a8fe8c8fd615a38b20b28a14164b1960fd1f;

    /// @inheritdoc IGramVerifier
    bytes32 public immutable override srsId;

    /// @dev [τ]_1.
    bytes32 private immutable TAU_1A;
    bytes32 private immutable TAU_1B;
    bytes32 private immutable TAU_1C;

    /// @dev [τ]_2.
    bytes32 private immutable TAU_2A;
    bytes32 private immutable TAU_2B;
    bytes32 private immutable TAU_2C;
    bytes32 private immutable TAU_2D;
    bytes32 private immutable TAU_2E;
    bytes32 private immutable TAU_2F;

    /// @dev [−τ² − 1]_2.
    bytes32 private immutable END_2A;
    bytes32 private immutable END_2B;
    bytes32 private immutable END_2C;
    bytes32 private immutable END_2D;
    bytes32 private immutable END_2E;
    bytes32 private immutable END_2F;

    /// @param tau1 [τ]_1, x ‖ y, 48 bytes big-endian each
    /// @param tau2 [τ]_2, x.c0 ‖ x.c1 ‖ y.c0 ‖ y.c1
    /// @param tauSquared2 [τ²]_2
    constructor(bytes memory tau1, bytes memory tau2, bytes memory tauSquared2) {
        if (tau1.length != 96 || tau2.length != 192 || tauSquared2.length != 192) {
            revert BadReferenceString();
        }
        srsId = keccak256(bytes.concat(tau1, tau2, tauSquared2));

        bytes memory one1 = _padded(bytes.concat(ONE_1A, ONE_1B, ONE_1C));
        bytes memory one2 = _padded(bytes.concat(ONE_2A, ONE_2B, ONE_2C, ONE_2D, ONE_2E, ONE_2F));
        bytes memory tau = _padded(tau2);
        bytes memory squared = _padded(tauSquared2);
        bytes memory minusOne1 = _called(G1_MSM, bytes.concat(one1, bytes32(R - 1)));
        // e([τ]_1, [1]_2) = e([1]_1, [τ]_2) and e([τ]_1, [τ]_2) = e([1]_1, [τ²]_2)
        bytes memory first = _called(PAIRING, bytes.concat(_padded(tau1), one2, minusOne1, tau));
        bytes memory second = _called(PAIRING, bytes.concat(_padded(tau1), tau, minusOne1, squared));
        if (uint256(bytes32(first)) != 1 || uint256(bytes32(second)) != 1) {
            revert BadReferenceString();
        }
        // τ = 0 satisfies both
        if (_wordAt(tau1, 0) | _wordAt(tau1, 32) | _wordAt(tau1, 64) == 0) {
            revert BadReferenceString();
        }

        bytes memory end = _called(G2_ADD, bytes.concat(squared, one2));
        end = _called(G2_MSM, bytes.concat(end, bytes32(R - 1)));
        (TAU_1A, TAU_1B, TAU_1C) = _words(tau1, 0);
        (TAU_2A, TAU_2B, TAU_2C) = _words(tau2, 0);
        (TAU_2D, TAU_2E, TAU_2F) = _words(tau2, 96);
        end = _compact(end);
        (END_2A, END_2B, END_2C) = _words(end, 0);
        (END_2D, END_2E, END_2F) = _words(end, 96);
    }

    /// @inheritdoc IGramVerifier
    function verify(
        bytes32 project,
        uint32 round,
        address,
        bytes calldata points,
        bytes calldata gram,
        bytes calldata proof
    ) external view override returns (bool) {
        uint256 n = points.length / POINT;
        if (n == 0 || points.length != POINT * n) return false;
        if (gram.length != 4 * n * (n + 1) || proof.length != PROOF) return false;

        bytes32 state = keccak256(abi.encode(block.chainid, msg.sender, project, round));
        state = keccak256(
            bytes.concat(TAG, srsId, state, bytes32(n), points, gram, proof[MASK:MASK_NORM + 32])
        );
        uint256[] memory weights = _weights(state, n);
        uint256 claim = _claimedNorm(weights, gram, _scalar(proof, MASK_NORM));
        state = keccak256(bytes.concat(state, proof[SHIFT:SHIFT + POINT]));
        uint256 s = uint256(state) % R;
        state = keccak256(bytes.concat(state, proof[A0:BLINDING]));

        if (!_normHolds(proof, s, claim)) return false;
        return _openingHolds(points, weights, proof, s, uint256(state) % R);
    }

    /// @dev Challenges c, ρ_1, …, ρ_n.
    function _weights(bytes32 state, uint256 n) private pure returns (uint256[] memory weights) {
        weights = new uint256[](n + 1);
        assembly ("memory-safe") {
            mstore(0, state)
            for { let i := 0 } iszero(gt(i, n)) { i := add(i, 1) } {
                mstore(0x20, i)
                mstore(add(add(weights, 0x20), shl(5, i)), mod(keccak256(0, 0x40), R))
            }
        }
    }

    /// @dev t = Σ_ij ρ_i ρ_j G_ij + c²v modulo r: row by row ρ_i·(ρ_i·G_ii + 2·Σ_{j>i} ρ_j·G_ij).
    function _claimedNorm(uint256[] memory weights, bytes calldata gram, uint256 maskNorm)
        private
        pure
        returns (uint256 total)
    {
        assembly ("memory-safe") {
            let row := add(weights, 0x20)
            let end := add(row, shl(5, mload(weights)))
            total := mulmod(mulmod(mload(row), mload(row), R), maskNorm, R)
            let entry := gram.offset
            for { row := add(row, 0x20) } lt(row, end) { row := add(row, 0x20) } {
                let rho := mload(row)
                // R added keeps negative entries in the field; the sum stays far below 2^256
                let own := mulmod(rho, add(R, signextend(7, shr(192, calldataload(entry)))), R)
                entry := add(entry, 8)
                let others := 0
                for { let column := add(row, 0x20) } lt(column, end) { column := add(column, 0x20) }
                {
                    let product :=
                        mulmod(
                            mload(column),
                            add(R, signextend(7, shr(192, calldataload(entry)))),
                            R
                        )
                    others := addmod(others, product, R)
                    entry := add(entry, 8)
                }
                own := addmod(own, addmod(others, others, R), R)
                total := addmod(total, mulmod(rho, own, R), R)
            }
        }
    }

    /// @dev Check 1, and that every scalar of the proof is below r.
    function _normHolds(bytes calldata proof, uint256 s, uint256 claim)
        private
        pure
        returns (bool)
    {
        uint256 a0 = _scalar(proof, A0);
        uint256 a1 = _scalar(proof, A1);
        uint256 s0 = _scalar(proof, S0);
        uint256 s1 = _scalar(proof, S1);
        if (a0 >= R || a1 >= R || s0 >= R || s1 >= R) return false;
        if (_scalar(proof, MASK_NORM) >= R || _scalar(proof, BLINDING) >= R) return false;

        uint256 left = addmod(mulmod(a0, a0, R), mulmod(a1, a1, R), R);
        left = addmod(left, mulmod(mulmod(a0, a1, R), s, R), R);
        uint256 right = addmod(claim, mulmod(s, s0, R), R);
        right = addmod(right, mulmod(addmod(mulmod(s, s, R), R - 2, R), s1, R), R);
        return left == right;
    }

    /// @dev Check 2.
    function _openingHolds(
        bytes calldata points,
        uint256[] memory weights,
        bytes calldata proof,
        uint256 s,
        uint256 gamma
    ) private view returns (bool) {
        uint256 n = weights.length - 1;
        uint256 base;
        assembly ("memory-safe") {
            base := mload(0x40)
        }
        bool sound = true;
        uint256 place = base;
        for (uint256 i = 0; i < n; ++i) {
            sound = _copyPoint(place, points, POINT * i) && sound;
            _store(place + PADDED, weights[i + 1]);
            place += TERM;
        }
        sound = _copyPoint(place, proof, MASK) && sound;
        _store(place + PADDED, weights[0]);
        sound = _copyPoint(place + TERM, proof, SHIFT) && sound;
        _store(place + TERM + PADDED, gamma);
        _expand(place + 2 * TERM, BLIND_A, BLIND_B, BLIND_C);
        _store(place + 2 * TERM + PADDED, R - _scalar(proof, BLINDING));
        _expand(place + 3 * TERM, ONE_1A, ONE_1B, ONE_1C);
        _store(place + 3 * TERM + PADDED, R - _line(proof, A0, S0, gamma));
        _expand(place + 4 * TERM, TAU_1A, TAU_1B, TAU_1C);
        _store(place + 4 * TERM + PADDED, R - _line(proof, A1, S1, gamma));

        // first pair: the opened sum, [1]_2
        sound = sound && _call(G1_MSM, base, (n + 5) * TERM, base, PADDED);
        _expand(base + 128, ONE_2A, ONE_2B, ONE_2C);
        _expand(base + 256, ONE_2D, ONE_2E, ONE_2F);
        // second pair: W, [sτ − τ² − 1]_2
        sound = _copyPoint(base + 384, proof, QUOTIENT) && sound;
        _expand(base + 512, TAU_2A, TAU_2B, TAU_2C);
        _expand(base + 640, TAU_2D, TAU_2E, TAU_2F);
        _store(base + 768, s);
        sound = sound && _call(G2_MSM, base + 512, 288, base + 512, 256);
        _expand(base + 768, END_2A, END_2B, END_2C);
        _expand(base + 896, END_2D, END_2E, END_2F);
        sound = sound && _call(G2_ADD, base + 512, 512, base + 512, 256);
        sound = sound && _call(PAIRING, base, 768, base, 32);
        assembly ("memory-safe") {
            sound := and(sound, mload(base))
        }
        return sound;
    }

    /// @dev a + γ·b modulo r for two scalars of the proof.
    function _line(bytes calldata proof, uint256 a, uint256 b, uint256 gamma)
        private
        pure
        returns (uint256)
    {
        return addmod(_scalar(proof, a), mulmod(gamma, _scalar(proof, b), R), R);
    }

    function _scalar(bytes calldata proof, uint256 place) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := calldataload(add(proof.offset, place))
        }
    }

    function _store(uint256 to, uint256 value) private pure {
        assembly ("memory-safe") {
            mstore(to, value)
        }
    }

    /// @dev Writes a point of calldata in the precompiles' encoding, 64 bytes a coordinate.
    /// @return present whether it is not the identity, the one valid point whose y is 0
    function _copyPoint(uint256 to, bytes calldata data, uint256 place)
        private
        pure
        returns (bool present)
    {
        assembly ("memory-safe") {
            mstore(to, 0)
            mstore(add(to, 64), 0)
            calldatacopy(add(to, 16), add(data.offset, place), 48)
            calldatacopy(add(to, 80), add(data.offset, add(place, 48)), 48)
            present := iszero(iszero(or(mload(add(to, 64)), mload(add(to, 96)))))
        }
    }

    /// @dev Writes two coordinates kept in three words in the precompiles' encoding.
    function _expand(uint256 to, bytes32 a, bytes32 b, bytes32 c) private pure {
        assembly ("memory-safe") {
            mstore(to, shr(128, a))
            mstore(add(to, 32), or(shl(128, a), shr(128, b)))
            mstore(add(to, 64), shr(128, shl(128, b)))
            mstore(add(to, 96), c)
        }
    }

    /// @dev Whether a precompile took its input; it consumes the gas left if it did not.
    function _call(uint256 precompile, uint256 from, uint256 size, uint256 to, uint256 outSize)
        private
        view
        returns (bool done)
    {
        assembly ("memory-safe") {
            done := staticcall(gas(), precompile, from, size, to, outSize)
            done := and(done, eq(returndatasize(), outSize))
        }
    }

    // ------------------------------------------------------------ constructor

    function _called(uint256 precompile, bytes memory input)
        private
        view
        returns (bytes memory output)
    {
        bool done;
        (done, output) = address(uint160(precompile)).staticcall(input);
        if (!done || output.length == 0) revert BadReferenceString();
    }

    /// @dev Coordinates of 48 bytes in the precompiles' encoding.
    function _padded(bytes memory compact) private pure returns (bytes memory padded) {
        padded = new bytes(compact.length / 48 * 64);
        for (uint256 i = 0; i < compact.length; ++i) {
            padded[i / 48 * 64 + 16 + i % 48] = compact[i];
        }
    }

    function _compact(bytes memory padded) private pure returns (bytes memory compact) {
        compact = new bytes(padded.length / 64 * 48);
        for (uint256 i = 0; i < compact.length; ++i) {
            compact[i] = padded[i / 48 * 64 + 16 + i % 48];
        }
    }

    function _words(bytes memory data, uint256 place)
        private
        pure
        returns (bytes32 a, bytes32 b, bytes32 c)
    {
        return (_wordAt(data, place), _wordAt(data, place + 32), _wordAt(data, place + 64));
    }

    function _wordAt(bytes memory data, uint256 place) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), place))
        }
    }
}
